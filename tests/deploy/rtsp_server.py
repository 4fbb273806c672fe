"""An RTSP server for one reader at a time (RFC 2326, RTP interleaved in TCP), whose packets FFmpeg makes."""

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def rtsp_server(video: Path, folder: Path, *, cut_after_s: float) -> Iterator[str]:
    """Play an H.264 file from its start to each reader, and cut the first one's connection after some seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as packets:
        packets.bind(("127.0.0.1", 0))
        packets.settimeout(0.2)
        cuts = [cut_after_s]

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    reader, _ = server.accept()
                    with reader, contextlib.suppress(OSError):
                        _serve(reader, packets, video, folder / "stream.sdp", cuts.pop() if cuts else 60)

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        # Wakes the thread that waits for a reader.
        server.shutdown(socket.SHUT_RDWR)


def _serve(reader: socket.socket, packets: socket.socket, video: Path, sdp: Path, seconds: float) -> None:
    sdp.unlink(missing_ok=True)
    target = f"rtp://127.0.0.1:{packets.getsockname()[1]}"
    command = ["ffmpeg", "-loglevel", "error", "-nostdin", "-re", "-i", str(video), "-c", "copy", "-f", "rtp"]
    sender = subprocess.Popen([*command, "-sdp_file", str(sdp), target])
    try:
        lines = reader.makefile("r", encoding="ascii", newline="\r\n")
        is_playing = False
        while not is_playing:
            verb, address = lines.readline().split()[:2]
            headers = dict(line.strip().split(": ", 1) for line in iter(lines.readline, "\r\n"))
            answer, body = [f"CSeq: {headers['CSeq']}", "Session: 1"], ""
            if verb == "OPTIONS":
                answer.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            elif verb == "DESCRIBE":
                while not sdp.is_file() or "m=video" not in sdp.read_text():
                    time.sleep(0.01)
                body = re.sub(r"m=video \d+", "m=video 0", sdp.read_text()[sdp.read_text().index("v=0") :])
                answer += [f"Content-Base: {address}/", "Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            elif verb == "SETUP":
                answer.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            is_playing = verb == "PLAY"
            reader.sendall(("\r\n".join(["RTSP/1.0 200 OK", *answer, "", ""]) + body).encode())
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (sender.poll() is None):
            with contextlib.suppress(TimeoutError):
                packet = packets.recv(65536)
                reader.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
    finally:
        sender.kill()
        sender.wait()
