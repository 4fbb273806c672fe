"""The CUDA driver as the stand-in uses it, real or fake, and what its callers did wrong."""

import ctypes
import functools
import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

ILLEGAL_ADDRESS, LAUNCH_FAILED = 700, 719

# What the callers of the stand-in did that TensorRT or CUDA forbid, in words; tests expect none.
misuses: list[str] = []

# Objects of the stand-in that are in existence, by their kind.
alive: dict[str, int] = {}


class Misuse(AssertionError):
    """A call that TensorRT or CUDA forbid; kept in `misuses` too, since a destructor's errors are not heard."""

    def __init__(self, words: str) -> None:
        misuses.append(words)
        super().__init__(words)


class Counted:
    """Counts itself in `alive` as long as it exists."""

    def __init__(self) -> None:
        name = type(self).__name__
        alive[name] = alive.get(name, 0) + 1

    def __del__(self) -> None:
        if not sys.is_finalizing():
            alive[type(self).__name__] -= 1


@functools.cache
def library() -> Any:
    """Return the driver's library."""
    return ctypes.CDLL("libcuda.so.1")


@functools.cache
def is_fake() -> bool:
    """Whether the driver is the one of `tests/fake_driver.c`, whose device memory is the host's."""
    return hasattr(library(), "fake_live")


def call(name: str, *arguments: Any) -> int:
    """Call a function of the driver and return its status."""
    return int(getattr(library(), name)(*arguments))


def current_context() -> int:
    """Return the context that is current on this thread; 0 for none."""
    context = ctypes.c_void_p()
    call("cuCtxGetCurrent", ctypes.byref(context))
    return context.value or 0


def need_context(what: str) -> None:
    """Raise Misuse where no context is current."""
    if not current_context():
        raise Misuse(f"{what} without a current CUDA context")


def card() -> tuple[str, str] | None:
    """Return name and compute capability of the current card, the first where none is; None without a driver."""
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    try:
        if call("cuInit", 0):
            return None
    except OSError:
        return None
    if current_context():
        call("cuCtxGetDevice", ctypes.byref(device))
    else:
        call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDeviceGetName", name, 256, device)
    numbers = [ctypes.c_int(), ctypes.c_int()]
    for number, attribute in zip(numbers, (75, 76), strict=True):
        call("cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
    return name.value.decode(), f"{numbers[0].value}.{numbers[1].value}"


def device_number() -> int:
    """Return the number of the current card."""
    device = ctypes.c_int(0)
    call("cuCtxGetDevice", ctypes.byref(device))
    return device.value


def allocate(size_bytes: int) -> int | None:
    """Return the address of device memory; None where there is none."""
    address = ctypes.c_void_p()
    return None if call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes)) else address.value


def free(address: int) -> None:
    """Give device memory back; raise Misuse where that fails."""
    status = call("cuMemFree_v2", ctypes.c_void_p(address))
    if status:
        raise Misuse(f"device memory of the stand-in cannot be given back: CUDA says {status}")


def room_at(address: int) -> int:
    """Return how many bytes of an allocation begin at a device address; 0 where it is in none."""
    base, size = ctypes.c_void_p(), ctypes.c_size_t()
    if call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), ctypes.c_void_p(address)):
        return 0
    return (base.value or 0) + size.value - address


def is_capturing(stream: int) -> bool:
    """Whether a stream records a graph; raise Misuse where there is no such stream."""
    is_recording = ctypes.c_int()
    status = call("cuStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(is_recording))
    if status:
        raise Misuse(f"work is given to a stream that is not there: CUDA says {status}")
    return is_recording.value == 1


# --- Work of the host's in a stream: how the fake card computes ---

_numbers = itertools.count(1)
_works: dict[int, Callable[[], None]] = {}
_lock = threading.Lock()


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _run(number: int) -> None:
    work = _works.get(number)
    if work is None:
        misuses.append("a stream still runs what belongs to an execution context that was destroyed")
        library().fake_fault(ILLEGAL_ADDRESS)
        return
    try:
        work()
    except Misuse:
        library().fake_fault(ILLEGAL_ADDRESS)
    except Exception:
        # As with a kernel that fails: whoever waits for the stream is told, without words.
        library().fake_fault(LAUNCH_FAILED)


def queue(stream: int, work: Callable[[], None]) -> int:
    """Put work of the host's into a stream; returns its number for `drop`. Raise Misuse where CUDA refuses."""
    with _lock:
        number = next(_numbers)
        _works[number] = work
    status = call("cuLaunchHostFunc", ctypes.c_void_p(stream), _run, ctypes.c_void_p(number))
    if status:
        drop(number)
        raise Misuse(f"a stream takes no work: CUDA says {status}")
    return number


def drop(number: int) -> None:
    """Forget work that will not be run again."""
    _works.pop(number, None)
