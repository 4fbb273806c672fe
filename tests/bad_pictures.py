"""Small files that say they are large pictures, by name; made here, so that none has to be kept."""

import struct
import zlib

import cv2
import numpy as np

SIDE = 20_000  # 400 million pixels


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: tuple[bytes, bytes], rows: int = 0, channels: int = 3) -> bytes:
    """Return a PNG of 8 bits a channel; `rows` of zeros are there, and chunks that follow the header."""
    kind = {1: 0, 3: 2, 4: 6}[channels]
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    body = zlib.compress(bytes((1 + channels * width) * rows), 1)
    middle = b"".join(_chunk(*chunk) for chunk in more)
    return b"\x89PNG\r\n\x1a\n" + header + middle + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def tiff(entries: dict[int, int], data: bytes = b"", order: str = "<") -> bytes:
    """Return a TIFF with a directory of 32-bit numbers, followed by data at offset 8 + 2 + 12 * entries + 4."""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    rows = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return start + struct.pack(order + "H", len(entries)) + rows + struct.pack(order + "I", 0) + data


def big_tiff(width: int, height: int) -> bytes:
    rows = b"".join(struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in ((256, width), (257, height)))
    return b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + struct.pack("<Q", 2) + rows + struct.pack("<Q", 0)


def encoded(suffix: str, height: int = 8, width: int = 8) -> bytes:
    return cv2.imencode(suffix, np.zeros((height, width, 3), np.uint8))[1].tobytes()


def _patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _jpeg(*, progressive: bool, side: int = SIDE) -> bytes:
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    data = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), flags)[1].tobytes()
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    return _patched(data, frame + 5, struct.pack(">HH", side, side))


def _jpeg2000() -> bytes:
    # The box of the header still says 64; the code stream counts.
    data = encoded(".jp2", 64, 64)
    return _patched(data, data.index(b"\xff\x4f\xff\x51") + 8, struct.pack(">II", SIDE, SIDE))


def _avif() -> bytes:
    data = encoded(".avif")
    return _patched(data, data.index(b"ispe") + 8, struct.pack(">II", SIDE, SIDE))


def too_large() -> dict[str, bytes]:
    """Return files of every format, each of which says that it has more than 100 million pixels."""
    whole = tiff({256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: SIDE, 279: 8}, bytes(200))
    tile = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 322: 1 << 14, 323: 1 << 14, 324: 200, 325: 8}
    return {
        "rows.png": png(SIDE, SIDE, rows=100),
        "header.png": png(SIDE, SIDE),
        "wide.png": png(1_000_000, 500),
        "baseline.jpg": _jpeg(progressive=False),
        "progressive.jpg": _jpeg(progressive=True),
        "core.bmp": b"BM" + struct.pack("<IHHIIHHHH", 26, 0, 0, 26, 12, SIDE, SIDE, 1, 24),
        "down.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, SIDE, -SIDE, 1, 24, 1, 0, 0, 0, 0, 0),
        "extended.webp": b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<II", 10, 2)
        + (SIDE - 1).to_bytes(3, "little") * 2 + bytes(8),
        "lossless.webp": b"RIFF" + struct.pack("<I", 25) + b"WEBPVP8L" + struct.pack("<IBI", 8, 0x2F, 0x0FFFFFFF)
        + bytes(8),
        "strips.tif": whole,
        "other order.tif": tiff({256: SIDE, 257: SIDE}, order=">"),
        "tile.tif": tiff(tile, bytes(200)),
        "big.tif": big_tiff(SIDE, SIDE),
        "twice.tif": b"II*\0" + struct.pack("<IH", 8, 3)
        + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 8), (256, SIDE), (257, SIDE)))
        + bytes(4),
        "screen.gif": _patched(encoded(".gif"), 6, struct.pack("<HH", SIDE, SIDE)),
        "stream.jp2": _jpeg2000(),
        "item.avif": _avif(),
        "raw.ppm": b"P6\n# a comment\n%d %d\n255\n" % (SIDE, SIDE),
        "text.pgm": b"P2 %d\t%d 255 0 0" % (SIDE, SIDE),
        "bits.pbm": b"P4\n%d %d\n" % (SIDE, SIDE),
        "fields.pam": b"P7\nWIDTH 8\nWIDTH %d\nHEIGHT %d\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" % (SIDE, SIDE),
        "floats.pfm": b"PF\n%d %d\n-1\n" % (SIDE, SIDE),
        "sun.ras": struct.pack(">8I", 0x59A66A95, SIDE, SIDE, 24, 0, 1, 0, 0),
        "radiance.hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (SIDE, SIDE),
    }  # fmt: skip


def odd() -> dict[str, bytes]:
    """Return files of few pixels that unpack to much, or whose numbers contradict each other."""
    bomb = zlib.compress(bytes(100_000_000), 1)
    scans = _jpeg(progressive=True, side=9000)
    one_scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00"
    return {
        "profile.png": png(8, 8, (b"iCCP", b"name\0\0" + bomb), rows=8),
        "text.png": png(8, 8, (b"iTXt", b"name\0\1\0\0\0" + bomb), rows=8),
        "ztxt.png": png(8, 8, (b"zTXt", b"name\0\0" + bomb), rows=8),
        "more rows.png": png(8, 8, rows=2_000_000),
        "two headers.png": png(8, 8, (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)), rows=8),
        "frame.png": png(8, 8, (b"acTL", struct.pack(">II", 2, 0)),
                         (b"fcTL", struct.pack(">IIIIIHHBB", 0, SIDE, SIDE, 0, 0, 1, 1, 0, 0)), rows=8),
        "no pixels.png": png(0, 8),
        "no pixels.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 5, 1, 24, 0, 0, 0, 0, 0, 0),
        "least.bmp": b"BM" + struct.pack("<IHHIIiiHHI", 54, 0, 0, 54, 40, -(2**31), -(2**31), 1, 24, 1) + bytes(20),
        "rows.tif": tiff({256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 273: 150, 277: 1, 278: 2**32 - 1, 279: 2**32 - 1},
                         bomb),
        "channels.tif": tiff({256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 150, 277: 65535, 278: 8, 279: 8}),
        "cut.tif": tiff({256: 8, 257: 8})[:20],
        "far.tif": b"II*\0\xff\xff\xff\xff",
        "scans.jpg": scans[: scans.index(b"\xff\xda")] + one_scan * 10_000 + b"\xff\xd9",
        "no size.jpg": b"\xff\xd8\xff\xda\x00\x02\xff\xd9",
        "no digits.ppm": b"P6\n" + b"#" * 100_000,
        "no end.gif": encoded(".gif")[:13],
        "nothing.webp": b"RIFF\x04\x00\x00\x00WEBP",
    }  # fmt: skip
