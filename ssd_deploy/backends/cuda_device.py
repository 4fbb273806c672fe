"""What the TensorRT runner needs of CUDA, and no more; the errors that its two implementations share."""

import contextlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from ssd_train.errors import BackendError


class DriverError(BackendError):
    """A CUDA package works, but there is no driver or no such GPU."""


class CudaDevice(Protocol):
    """A GPU; every method but `current` is called inside `with device.current()`.

    Streams, events, graphs and device addresses are plain integers; each is given back once, by the
    method that is named for it. Every method raises BackendError where CUDA reports an error.

    Attributes:
        layer: the package that is used and its version, for example `cuda-python 13.5.0`.
        name: the GPU, for example `NVIDIA L4`.
        compute_capability: for example `8.9`.
        driver_version: the CUDA version that the driver supports, for example `CUDA 13.0`.
    """

    layer: str
    name: str
    compute_capability: str
    driver_version: str

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make the primary context current on the calling thread, and afterwards the one that was."""

    def memory_info(self) -> tuple[int, int]:
        """Return the free and the total memory in bytes."""

    def create_stream(self) -> int:
        """Return a stream that does not wait for the default stream."""

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None:
        """Wait until everything in a stream is done."""

    def allocate(self, size_bytes: int) -> int:
        """Return the address of device memory."""

    def free(self, address: int) -> None: ...

    def host_array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an uninitialised array in page-locked memory."""

    def free_host_array(self, array: NDArray[Any]) -> None:
        """Give back what `host_array` returned, that very array; views of it must not be used afterwards."""

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Queue a copy of a contiguous page-locked array."""

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Queue a copy into a contiguous page-locked array."""

    def create_event(self) -> int: ...

    def destroy_event(self, event: int) -> None: ...

    def record(self, event: int, stream: int) -> None: ...

    def elapsed_ms(self, start: int, end: int) -> float:
        """Wait for `end`, and return the time between two recorded events in milliseconds."""

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what `work` queues in a stream, without running it, as a CUDA graph that can be launched."""

    def launch(self, graph: int, stream: int) -> None: ...

    def destroy_graph(self, graph: int) -> None: ...


def require_cuda_python() -> None:
    """Raise BackendError where cuda-python is not installed, or older than the first with `cuda.bindings`."""
    require_package("cuda", "cuda-python")
    require_package("cuda.bindings", "cuda-python 12.8 or later")


def require_package(module: str, package: str) -> None:
    """Raise BackendError where a package's module is not installed."""
    if importlib.util.find_spec(module) is None:
        raise BackendError(f"{package} is not installed")


def out_of_memory(kind: str, size_bytes: int, free_bytes: int, total_bytes: int) -> BackendError:
    """Return the error for memory that could not be had; its `kind` starts the sentence."""
    return BackendError(
        f"{kind} of {size_bytes / 2**20:.1f} MiB cannot be had ({free_bytes / 2**20:.0f} of "
        f"{total_bytes / 2**20:.0f} MiB of the GPU are free); close other programs, or build the engine with a "
        "smaller max_batch"
    )
