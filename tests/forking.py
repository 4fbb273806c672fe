"""Runs commands in processes of their own without starting Python each time.

As a script it is the server: it imports what commands import, and forks for each request. What is forked is what the
`ssd-deploy` script is, from its streams to the interpreter's end. As a module it is the client, `Forking`.
"""

import atexit
import contextlib
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve()


class Ended(NamedTuple):
    """How a command ended: the shell's exit code, and what it printed."""

    code: int
    stdout: str
    stderr: str


class Running(NamedTuple):
    """A command that runs, and its folder of temporary files."""

    server: "Forking"
    pid: int
    tmp: Path

    def wait(self) -> Ended:
        status, *printed = self.server.ask(wait=self.pid)
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return Ended(code, *printed)

    def has_ended(self) -> bool:
        """Whether there is only its end left to ask for (Linux)."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def kill(self) -> None:
        # It may have ended, but it is not waited for, so its number is still its own.
        os.kill(self.pid, signal.SIGKILL)


class Forking:
    """The server, as its tests see it."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="faults-")
        root = HERE.parents[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *arguments: object, **faults: Any) -> Running:
        """Start `ssd-deploy ARGUMENTS`.

        Args:
            faults: `stdin`, `stdout`, `stderr`: `closed`, `full` or `gone` (a pipe that nobody reads); `limits`: name
                of a limit of `resource` -> value; `ignore`: names of signals to ignore; `strikes`: arguments of
                `patches.strike`; `quick`: leave a training's pictures out; `traced`: an exported file that is what
                tracing gives.
        """
        folder = tempfile.mkdtemp(prefix="faults-", dir=self._folder)
        return Running(self, self.ask(arguments=list(map(str, arguments)), folder=folder, **faults), Path(folder))

    def run(self, *arguments: object, **faults: Any) -> Ended:
        return self.start(*arguments, **faults).wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self._folder)


# --- The server ---


def serve() -> dict[str, Any]:
    """Answer requests; returns in each process that was forked, with what it is to do."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    # pid -> what reads its two streams. Pipes, since limits of files are among the faults.
    printed: dict[int, list[int]] = {}
    for line in requests:
        request = json.loads(line)
        answer: Any
        if "wait" in request:
            answer = [os.waitpid(request["wait"], 0)[1], *map(_drain, printed.pop(request["wait"]))]
        else:
            pipes = [os.pipe(), os.pipe()]
            answer = os.fork()
            if not answer:
                for descriptor in (requests.fileno(), answers.fileno(), *sum(printed.values(), [])):
                    os.close(descriptor)
                for to, (read_end, write_end) in enumerate(pipes, start=1):
                    os.close(read_end)
                    os.dup2(write_end, to)
                    os.close(write_end)
                return request
            for read_end, write_end in pipes:
                os.close(write_end)
                os.set_blocking(read_end, False)
                # Enough for all that a command prints, since it is read at its end.
                fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, 1 << 20)
            printed[answer] = [read_end for read_end, _ in pipes]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


def _drain(read_end: int) -> str:
    """Read what is there; a process that the command started may have the other end open still."""
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(read_end, 1 << 20):
            parts.append(part)
    os.close(read_end)
    return b"".join(parts).decode(errors="replace")


def become(request: dict[str, Any]) -> None:
    """Make this process what a shell would have started, with its faults."""
    os.setsid()
    folder = Path(request["folder"])
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    os.chdir(folder)
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = _open_stream(descriptor, request.get(name))
        setattr(sys, name, stream and open(descriptor, mode, closefd=False))  # noqa: SIM115
        setattr(sys, f"__{name}__", getattr(sys, name))
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for name in request.get("ignore", ()):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    for arguments in request.get("strikes", ()):
        patches.strike(*arguments)
    if request.get("quick"):
        patches.leave_out_pictures()
    if request.get("traced"):
        patches.trace_as(request["traced"])
    for name, value in request.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (value, value))
    sys.argv = ["ssd-deploy", *request["arguments"]]


def _open_stream(descriptor: int, fault: str | None) -> bool:
    """Put a stream in its place; returns whether there is one."""
    if fault == "closed":
        os.close(descriptor)
        return False
    if fault == "gone":
        read_end, opened = os.pipe()
        os.close(read_end)
    elif fault == "full":
        opened = os.open("/dev/full", os.O_WRONLY)
    else:
        return True
    os.dup2(opened, descriptor)
    os.close(opened)
    return True


@contextlib.contextmanager
def forking() -> Iterator[Forking]:
    server = Forking()
    try:
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    # What commands import, so that it is there after the fork; none of it starts a thread.
    import cv2  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import onnx  # noqa: F401
    import patches
    import torch._dynamo.utils
    import torch.utils.data

    import ssd_deploy.backends.onnxruntime
    import ssd_deploy.cli
    import ssd_deploy.detecting
    import ssd_deploy.exporting
    import ssd_train.training.loop  # noqa: F401

    # At a process's end it looks for modules, which fails in words of its own where no descriptor is left.
    atexit.unregister(torch._dynamo.utils.dump_compile_times)

    become(serve())
    ssd_deploy.cli.main()
