"""What `torch.save` wrote -> plain values and tensors. Nothing in it is executed, and it unpacks to about its own size.

A file of megabytes may ask for gigabytes: compressed members of its archive, objects that a pickle makes of nothing,
and tensors that repeat a few numbers through their strides. All of that is held against the file's size.
"""

import argparse
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ssd_train.errors import WeightsError
from ssd_train.weights.file_format import EXPECTED
from ssd_train.weights.pickled_tuples import TupleSizes

# What a file may unpack to, in its own size: none of `torch.save` is compressed, and weights hardly can be.
UNPACKED_FACTOR = 8
# Beside that, for small files.
UNPACKED_EXTRA = 1 << 20
# A tensor takes about forty steps of a pickle; the largest network with all that a training keeps has thousands.
MOST_STEPS = 2_000_000
MOST_PICKLE_BYTES = 1 << 26
MOST_TENSORS = 20_000
MOST_LETTERS = 500
# Values in a tuple and the tuples in it, a shared one each time: as a key it is hashed value by value. The largest that
# is usual is the state of Python's random numbers, of 625.
MOST_IN_TUPLE = 2_000

# PyTorch lets these through, but they make memory of a number, or tensors without values.
_REFUSED = re.compile(
    r"builtins bytearray|_codecs encode|torch(\.cuda|\.sparse|\.cuda\.sparse)? \w*Tensor|"
    r"torch\._utils _rebuild_(meta|wrapper|device|nested|qtensor)\w*|torch\._tensor _rebuild_from_type_v2"
)
# Classes of plain values that the training scripts of torchvision put beside the weights: their command line.
_PLAIN_CLASSES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]
# The pickles at the head of a file from before PyTorch 1.6: a number, a version, the machine, the values, storages.
_LEGACY_PICKLES = 5

_NUMBERS = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
}  # fmt: skip


def most_unpacked(size_bytes: int) -> int:
    """Return how many bytes a weight file of a size may unpack to."""
    return UNPACKED_FACTOR * size_bytes + UNPACKED_EXTRA


def load_torch(file: BinaryIO, path: Path) -> Any:
    """Read a PyTorch checkpoint, on the CPU.

    Args:
        file: at its start; anything that can seek.
        path: named in errors.

    Raises:
        WeightsError: it is cut off, damaged, a pickle of more than plain values and tensors, or unpacks to far more
            than its size.
    """
    size_bytes = file.seek(0, 2)
    file.seek(0)
    is_zip = file.read(2) == b"PK"
    file.seek(0)
    if is_zip:
        for pickled in _checked_members(file, path, size_bytes):
            _check_steps(pickled, path)
    else:
        _check_legacy(file, path)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # PyTorch warns of pickles that it then refuses; our error says it all.
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals(_PLAIN_CLASSES):
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        code = f"code named in the file ({named[1][:MOST_LETTERS]})" if named else "code stored in it"
        raise WeightsError(
            f"{path}: is refused, since it is a pickle of more than plain tensors (or damaged) and loading it could "
            f"run {code}; save only the network's state_dict() with torch.save, or use safetensors"
        ) from error
    except MemoryError as error:
        raise WeightsError(f"{path}: there is too little memory to read it; free some") from error
    # The bytes are foreign, and PyTorch's readers fail on damaged ones with whatever the damage leads to
    # (EOFError, KeyError, RuntimeError, struct.error, ...); each means that the file is no use.
    except Exception as error:
        raise _damaged(path, type(error).__name__) from error


def check_tensors(tensors: Iterable[tuple[object, Any]], path: Path, size_bytes: int) -> None:
    """Raise WeightsError unless each is a tensor of plain numbers, and all of them are about as large as their file.

    Args:
        tensors: each with its name.
        path: the file, for errors.
        size_bytes: the file's.
    """
    total, count = 0, 0
    for name, value in tensors:
        count += 1
        if not isinstance(name, str) or len(name) > MOST_LETTERS or not isinstance(value, Tensor):
            raise _no_entry(name, type(value).__name__ if not isinstance(value, Tensor) else "tensor", path)
        if value.layout is not torch.strided:
            raise _no_entry(name, f"tensor ({value.layout})", path)
        if value.dtype not in _NUMBERS or value.device.type != "cpu" or value.is_nested:
            raise _no_entry(name, f"tensor ({value.dtype}, {value.device.type})", path)
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes():
            raise WeightsError(
                f"{path}: is refused, since {name} repeats {value.untyped_storage().nbytes()} bytes to "
                f"{size}; save tensors that are contiguous"
            )
        total += size
    if count > MOST_TENSORS or total > most_unpacked(size_bytes):
        raise _too_much(path, f"{count} tensors of {total:,} bytes", size_bytes)


def _no_entry(name: object, kind: str, path: Path) -> WeightsError:
    # Not the `repr` of what may be any value: tuples of tuples can print without end.
    shown = repr(name[:80]) if isinstance(name, str) else name if type(name) is int else f"a {type(name).__name__}"
    return WeightsError(
        f"{path}: entry {shown} is of type {kind}, but a state dict has dense tensors with text names; save the "
        "network's state_dict(), alone or as 'state_dict', 'model' or 'model_ema' beside other things"
    )


def _damaged(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path}: looks like a PyTorch checkpoint, but is cut off or damaged ({what}); copy or download it again"
    )


def _too_much(path: Path, what: str, size_bytes: int) -> WeightsError:
    return WeightsError(
        f"{path}: is refused, since its {size_bytes:,} bytes unpack to {what}, and at most "
        f"{most_unpacked(size_bytes):,} bytes are plausible; save the network's state_dict() again with torch.save"
    )


def _checked_members(file: BinaryIO, path: Path, size_bytes: int) -> list[bytes]:
    """Return the pickles of a zip archive, once its members are known to be those of a checkpoint."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if any(name.endswith("/constants.pkl") for name in names):
                raise WeightsError(
                    f"{path}: is a TorchScript archive, which holds code; expected {EXPECTED}: save the network's "
                    "state_dict()"
                )
            pickles = [member for member in members if member.filename.endswith("/data.pkl")]
            if not pickles:
                raise WeightsError(
                    f"{path}: is a zip archive of {', '.join(names[:3])[:MOST_LETTERS] or 'nothing'}, but expected "
                    f"{EXPECTED}; if it was downloaded with weights inside, unzip it and name the file"
                )
            total = sum(member.file_size for member in members)
            if total > most_unpacked(size_bytes) or any(member.file_size > MOST_PICKLE_BYTES for member in pickles):
                raise _too_much(path, f"{total:,} bytes", size_bytes)
            if len(set(names)) < len(names):
                raise _damaged(path, "a name twice")
            # Not more than was promised, whatever is really there.
            return [archive.open(member).read(member.file_size) for member in pickles]
    except WeightsError:
        raise
    # As above, of Python's reader of zip archives (BadZipFile, NotImplementedError, zlib.error, RuntimeError, ...).
    except Exception as error:
        raise WeightsError(
            f"{path}: looks like a PyTorch checkpoint, but is a cut off or damaged zip archive; copy or download it "
            "again"
        ) from error


def _check_legacy(file: BinaryIO, path: Path) -> None:
    for _ in range(_LEGACY_PICKLES):
        if not _check_steps(file, path):
            return


def _check_steps(pickled: "bytes | BinaryIO", path: Path) -> bool:
    """Raise WeightsError for a pickle that makes too much; return whether it comes to an end.

    What PyTorch itself refuses is left to it, since it says why.
    """
    steps, tuples = 0, TupleSizes()
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            steps += 1
            if tuples.after(operation, argument) > MOST_IN_TUPLE:
                raise WeightsError(
                    f"{path}: is refused, since it is a pickle of tuples that hold more than {MOST_IN_TUPLE:,} values; "
                    "save only the network's state_dict() with torch.save"
                )
            if steps > MOST_STEPS:
                raise WeightsError(
                    f"{path}: is refused, since it is a pickle of more than {MOST_STEPS:,} steps; save only the "
                    "network's state_dict() with torch.save"
                )
            if operation.name == "GLOBAL" and _REFUSED.fullmatch(str(argument)):
                raise WeightsError(
                    f"{path}: is refused, since it is a pickle of more than plain tensors "
                    f"({str(argument).replace(' ', '.')}); save only the network's state_dict() with torch.save"
                )
    except WeightsError:
        raise
    except Exception:
        # Damaged, or of a kind that only PyTorch tells from damage; it reads the same bytes.
        return False
    return True
