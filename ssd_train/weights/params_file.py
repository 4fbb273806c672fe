"""The `.params` file of MXNet, read with NumPy alone.

    list magic, reserved, array count | array records | name count, names

All numbers are little-endian, nothing is aligned and nothing has a checksum, so every count and size is
held against the bytes that remain before it is believed. Layout: MXNet `src/ndarray/ndarray.cc`,
`NDArray::Save` and `NDArray::Load`.
"""

import math
import os
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ssd_train.errors import WeightsError
from ssd_train.input_files import open_regular

# The largest network of the table has 400 MB of weights; ten times that leaves room for a training's other state.
MOST_BYTES = 1 << 32

MAGIC = (0x112).to_bytes(8, "little")

# The first word of a record tells its form; any other word is the number of dimensions of the oldest form, "V0".
RECORD_V1, RECORD_V2, RECORD_V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
# No layer has more; a larger word at the head of a V0 record is a foreign magic, not a shape.
MAX_V0_DIMENSIONS = 8
MAX_DIMENSIONS = 32

# The shortest record there can be: V0, one dimension, device type and id, dtype, no data.
MIN_RECORD_BYTES = 20

# By MXNet's flag (mshadow `base.h`, `TypeFlag`); bool and bfloat16 have no NumPy type that may hold raw bytes.
BFLOAT16 = 12
CODES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?", "<i2", "<u2", "<u4", "<u8", "<u2")
DTYPES = {flag: np.dtype(code) for flag, code in enumerate(CODES)}


def parse_params(data: bytes, path: Path) -> dict[str, NDArray]:
    """Read every array of an MXNet `.params` file.

    Args:
        data: what MXNet 1.x `save_parameters`, `save_params` or `nd.save` with a dict wrote.
        path: named in errors.

    Returns:
        Arrays by name, in file order, names as stored; writable, native byte order, each with its own memory.
        bfloat16 comes back as float32 (exactly), every other dtype as stored.

    Raises:
        WeightsError: the file is cut off, foreign, or holds what no weight file should: sparse or empty records,
            arrays without names, a name twice.
    """
    if data[:2] == b"PK":
        raise WeightsError(
            f"{path}: is a zip archive (of MXNet 2, or a download), but an MXNet 1.x .params file was expected; "
            "unzip a downloaded archive, or save the network again with MXNet 1.x save_parameters"
        )
    if data[:8] != MAGIC:
        raise WeightsError(
            f"{path}: is not an MXNet .params file, since it begins with {data[:8].hex(' ')} instead of "
            f"{MAGIC.hex(' ')}; name a file that MXNet 1.x save_parameters wrote"
        )
    cursor = _Cursor(data, path)
    cursor.take(16, "the file header")
    count = cursor.unsigned(8, "the array count")
    cursor.check(count * MIN_RECORD_BYTES, f"{count} arrays, as the array count says,")
    arrays = [_read_record(cursor, f"array record {index + 1} of {count}") for index in range(count)]
    if (name_count := cursor.unsigned(8, "the name count")) != count:
        cursor.fail(
            f"holds {count} arrays and {name_count} names, but every array of a weight file has a name; "
            "save a dict of arrays, or use save_parameters"
        )
    tensors: dict[str, NDArray] = {}
    for index, array in enumerate(arrays):
        what = f"name {index + 1} of {count}"
        try:
            name = bytes(cursor.take(cursor.unsigned(8, what), what)).decode()
        except UnicodeDecodeError as error:
            raise WeightsError(f"{path}: {what} is not UTF-8 text, so the file is damaged; get it anew") from error
        if name in tensors:
            cursor.fail(f"holds two arrays of the name {name!r}, so the file is damaged; save or download it again")
        tensors[name] = array
    return tensors


def read_bytes(path: Path, count: int = -1) -> bytes:
    """Read the first `count` bytes of a weight file, or all of it.

    Raises:
        WeightsError: the file is missing, empty, a folder, far larger than weights are, or may not be read.
    """
    try:
        with open_regular(path) as file:
            if count < 0 and (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise WeightsError(
                    f"{path}: has {size:,} bytes, more than any network needs ({MOST_BYTES:,}); name its weights alone"
                )
            data = file.read(count)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: there is no such weight file; check the path") from error
    except IsADirectoryError as error:
        raise WeightsError(f"{path}: is a folder, but a weight file was expected; name the file inside it") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error
    except ValueError as error:  # a zero byte in the path
        raise WeightsError(f"{ascii(str(path))}: can be no path ({error}); mend the name") from error
    except MemoryError as error:
        raise WeightsError(f"{path}: there is too little memory to read it; free some") from error
    if not data:
        raise WeightsError(f"{path}: is an empty file, but weights were expected; copy or download it again")
    return data


class _Cursor:
    """A place in the file's bytes that only moves over bytes that are there."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data = memoryview(data)
        self.path = path
        self.offset = 0

    def fail(self, problem: str) -> NoReturn:
        raise WeightsError(f"{self.path}: {problem}")

    def check(self, size: int, what: str) -> None:
        remaining = len(self.data) - self.offset
        if size > remaining:
            self.fail(
                f"{what} would take {size} bytes at offset {self.offset}, but the file has {remaining} left, so it is "
                "cut off or damaged; copy or download it again"
            )

    def take(self, size: int, what: str) -> memoryview:
        self.check(size, what)
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def unsigned(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def signed(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little", signed=True)


def _read_record(cursor: _Cursor, what: str) -> NDArray:
    shape = _read_shape(cursor, what)
    cursor.take(8, what)  # device type and id: where the array once lived

    flag = cursor.signed(4, what)
    dtype = DTYPES.get(flag)
    if dtype is None:
        cursor.fail(f"{what} has the unknown dtype flag {flag}; save the arrays as float32")
    # Python integers do not overflow; NumPy's sizes do, even where a zero makes the product harmless.
    if any(size < 0 for size in shape) or math.prod(max(size, 1) for size in shape) * dtype.itemsize > sys.maxsize:
        cursor.fail(f"{what} has the impossible shape {shape}, so the file is damaged; copy or download it again")
    data = cursor.take(math.prod(shape) * dtype.itemsize, f"{what}, {dtype.name} of shape {shape},")

    if flag == BFLOAT16:
        # bfloat16 is the upper half of a float32.
        return (np.frombuffer(data, dtype).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype == np.bool_:
        # A byte other than 0 and 1 is no valid NumPy bool.
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape)
    # Records are not aligned and the buffer is read-only, so every array gets a copy of its own.
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def _read_shape(cursor: _Cursor, what: str) -> tuple[int, ...]:
    magic = cursor.unsigned(4, what)
    if magic in (RECORD_V2, RECORD_V3):
        storage = cursor.signed(4, what)
        if storage != 0:
            kind = {1: "row-sparse", 2: "CSR sparse"}.get(storage, f"stored in the unknown way {storage}")
            cursor.fail(f"{what} is {kind}, but only dense arrays are read; convert it with tostype('default')")
    if magic in (RECORD_V1, RECORD_V2, RECORD_V3):
        dimensions, dimension_bytes, limit = cursor.signed(4, what), 8, MAX_DIMENSIONS
    else:
        dimensions, dimension_bytes, limit = magic, 4, MAX_V0_DIMENSIONS

    # V3 is written in NumPy-shape mode, where no dimensions make a scalar and -1 stands for no array.
    if dimensions == (-1 if magic == RECORD_V3 else 0):
        cursor.fail(f"{what} holds no array (an uninitialised parameter); initialise the network before saving it")
    if not 0 <= dimensions <= limit:
        cursor.fail(
            f"{what} begins with {magic:#010x} and has {dimensions} dimensions, but at most {limit} were expected, so "
            "the file is damaged or of an unknown version; save it with MXNet 1.x"
        )
    if dimension_bytes == 4:
        return tuple(cursor.unsigned(4, what) for _ in range(dimensions))
    return tuple(cursor.signed(8, what) for _ in range(dimensions))
