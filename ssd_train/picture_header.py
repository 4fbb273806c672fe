"""The size of a picture as its header has it, for every format that OpenCV decodes, and nothing decoded.

Formats are told by the same first bytes that OpenCV goes by, so that what is measured is what is decoded. Where a file
could say its size twice, the larger one counts.
"""

import re
import struct
from collections.abc import Callable, Iterator

Size = tuple[int, int]

# A marker inside JPEG entropy-coded data: not a stuffed zero, a restart, a fill byte, or one for private use that has
# no length (ITU-T T.81, table B.1).
JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
JPEG_START_OF_SCAN, JPEG_END_OF_IMAGE = 0xDA, 0xD9
# Enough to tell a format by; the brands of an AVIF file are a list.
HEAD_BYTES = 256

_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker of a JPEG's first image and where its segment begins (ITU-T T.81, annex B).

    Looking for the last end marker would not do: previews inside the file have one, and cameras append videos that may
    hold any bytes.
    """
    position = 2
    while found := JPEG_MARKER.search(data, position):
        marker, position = data[found.start() + 1], found.end()
        yield marker, position
        if marker == JPEG_END_OF_IMAGE:
            return
        # The length of a segment counts its own two bytes; after a scan's header the search skips its data.
        position += int.from_bytes(data[position : position + 2], "big")


def picture_size(data: bytes) -> Size | None:
    """Return (height, width) as a file's header says; None where it is no picture that OpenCV decodes, or cut off.

    Args:
        data: the file, whole.
    """
    for is_format, read_size in _FORMATS:
        if is_format(data):
            try:
                return read_size(data)
            except struct.error:
                return None
    return None


def is_picture(head: bytes) -> bool:
    """Whether a file's first `HEAD_BYTES` are those of a picture that OpenCV decodes."""
    return any(is_format(head) for is_format, _ in _FORMATS)


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(signatures)


def _fixed(layout: str, offset: int) -> Callable[[bytes], Size]:
    """Return what reads width and height, in that order, at a place that never changes."""

    def read(data: bytes) -> Size:
        width, height = struct.unpack_from(layout, data, offset)
        return height, width

    return read


def _in_text(width: bytes, height: bytes) -> Callable[[bytes], Size | None]:
    """Return what finds numbers after two patterns in a header of text; the largest of each."""

    def read(data: bytes) -> Size | None:
        widths, heights = (
            [int(found) for found in re.findall(pattern + rb"(\d{1,10})(?!\d)", data[:_TEXT_BYTES])]
            for pattern in (width, height)
        )
        return (max(heights), max(widths)) if widths and heights else None

    return read


# Comments may make a header of text long, but not that long.
_TEXT_BYTES = 1 << 16


def _largest(sizes: Iterator[Size]) -> Size | None:
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _jpeg(data: bytes) -> Size | None:
    for marker, start in jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 3)
            return height, width
        if marker == JPEG_START_OF_SCAN:
            break
    return None


def _bmp(data: bytes) -> Size:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    # A negative height says that rows come from the top.
    return abs(height), abs(width)


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return height, width


# TIFF 6.0, section 8; a tile is decoded whole, however little of it the picture needs.
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}


def _tiff(data: bytes) -> Size | None:
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    offset_kind, count_kind = ("Q", "Q") if is_big else ("I", "H")
    (at,) = struct.unpack_from(order + offset_kind, data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(order + count_kind, data, at)
    at += struct.calcsize(count_kind)
    entry_bytes, value_at = (20, 12) if is_big else (12, 8)
    found: dict[int, int] = {}
    # So few bits count the entries of the classic form.
    for start in range(at, at + min(entries, 65535) * entry_bytes, entry_bytes):
        tag, kind = struct.unpack_from(order + "HH", data, start)
        integer = _TIFF_INTEGERS.get(kind)
        if tag not in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT) or integer is None:
            continue
        place = start + value_at
        if struct.calcsize(integer) > struct.calcsize(offset_kind):
            (place,) = struct.unpack_from(order + offset_kind, data, place)
        (value,) = struct.unpack_from(order + integer, data, place)
        found[tag] = max(value, found.get(tag, 0))
    if _WIDTH not in found or _HEIGHT not in found:
        return None
    if found[_WIDTH] < 1 or found[_HEIGHT] < 1:
        return found[_HEIGHT], found[_WIDTH]
    return max(found[_HEIGHT], found.get(_TILE_HEIGHT, 0)), max(found[_WIDTH], found.get(_TILE_WIDTH, 0))


def _jpeg2000(data: bytes) -> Size | None:
    """Read the SIZ marker of the code stream (ISO 15444-1, annex A.5.1): a box around it may say anything."""

    def sizes() -> Iterator[Size]:
        for found in re.finditer(rb"\xff\x4f\xff\x51", data):
            right, bottom, left, top = struct.unpack_from(">4I", data, found.end() + 4)
            yield bottom - top, right - left

    return _largest(sizes())


def _avif(data: bytes) -> Size | None:
    """Read the size of every image item and track (ISO 23008-12, 6.5.3; ISO 14496-12, 8.3.2)."""

    def sizes() -> Iterator[Size]:
        for found in re.finditer(b"ispe", data):
            width, height = struct.unpack_from(">II", data, found.end() + 4)
            yield height, width
        for found in re.finditer(b"tkhd", data):
            width, height = struct.unpack_from(">II", data, found.end() + (88 if data[found.end()] else 76))
            yield height >> 16, width >> 16

    return _largest(sizes())


_GAP = rb"(?:\s|#[^\n]*\n)+"
_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Size | None]], ...] = (
    (_starts(b"\xff\xd8"), _jpeg),
    (lambda data: data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR", _fixed(">II", 16)),
    (_starts(b"BM"), _bmp),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp),
    (_starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    (_starts(b"GIF87a", b"GIF89a"), _fixed("<HH", 6)),
    (_starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), _jpeg2000),
    (lambda data: data[4:8] == b"ftyp" and bool(re.search(b"avi[fs]", data[8:HEAD_BYTES])), _avif),
    (
        _starts(*(b"P%d" % kind for kind in range(1, 7))),
        _in_text(rb"\AP\d" + _GAP, rb"\AP\d" + _GAP + rb"\d{1,10}" + _GAP),
    ),
    (_starts(b"P7"), _in_text(rb"\nWIDTH\s+", rb"\nHEIGHT\s+")),
    (_starts(b"Pf", b"PF"), _in_text(rb"\AP[fF]\s+", rb"\AP[fF]\s+\d{1,10}\s+")),
    (_starts(b"\x59\xa6\x6a\x95"), _fixed(">II", 4)),
    (_starts(b"#?RGBE", b"#?RADIANCE"), _in_text(rb"\+X\s+", rb"-Y\s+")),
)
