"""A writer of `.params` files from the format's table, independent of the reader."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

# Written by MXNet 1.9.1: one array named "ab", float32 2x3 holding 0 to 5.
GOLDEN = bytes.fromhex(
    "12 01 00 00 00 00 00 00  00 00 00 00 00 00 00 00  01 00 00 00 00 00 00 00"
    "c9 fa 93 f9  00 00 00 00  02 00 00 00  02 00 00 00 00 00 00 00  03 00 00 00 00 00 00 00"
    "01 00 00 00  00 00 00 00  00 00 00 00"
    "00 00 00 00 00 00 80 3f 00 00 00 40 00 00 40 40 00 00 80 40 00 00 a0 40"
    "01 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00  61 62"
)


def record(shape: tuple[int, ...], flag: int, data: bytes, version: int = 2, storage: int = 0) -> bytes:
    """Pack an array record; `version` 0 to 3."""
    magic = {0: b"", 1: b"\xc8\xfa\x93\xf9", 2: b"\xc9\xfa\x93\xf9", 3: b"\xca\xfa\x93\xf9"}[version]
    if version >= 2:
        magic += struct.pack("<i", storage)
    dims = struct.pack(f"<{len(shape)}{'I' if version == 0 else 'q'}", *shape)
    return magic + struct.pack("<i", len(shape)) + dims + struct.pack("<iii", 2, 1, flag) + data


def params_file(records: list[bytes], names: list[str]) -> bytes:
    """Pack a whole file; as many names as records, unless a test wants it otherwise."""
    packed = b"".join(struct.pack("<Q", len(name.encode())) + name.encode() for name in names)
    return struct.pack("<QQQ", 0x112, 0, len(records)) + b"".join(records) + struct.pack("<Q", len(names)) + packed


@pytest.fixture(scope="session")
def golden() -> bytes:
    return GOLDEN


@pytest.fixture(scope="session")
def pack_record() -> Callable[..., bytes]:
    return record


@pytest.fixture(scope="session")
def pack_file() -> Callable[[list[bytes], list[str]], bytes]:
    return params_file


@pytest.fixture(scope="session")
def float_params() -> Callable[[dict[str, Any]], bytes]:
    """Pack float32 arrays by name in the current form."""

    def pack(arrays: dict[str, Any]) -> bytes:
        values = [np.asarray(array, "<f4") for array in arrays.values()]
        return params_file([record(value.shape, 0, value.tobytes()) for value in values], list(arrays))

    return pack
