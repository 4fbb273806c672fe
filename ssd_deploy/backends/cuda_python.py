"""A GPU through cuda-python (`cuda.bindings` 12.8 or later): every call's status is looked at."""

import contextlib
import ctypes
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import cuda.bindings
import numpy as np
from cuda.bindings import driver
from numpy.typing import NDArray

from ssd_deploy.backends.cuda_device import DriverError, out_of_memory
from ssd_train.errors import BackendError, first_line

SUCCESS = driver.CUresult.CUDA_SUCCESS
OUT_OF_MEMORY = driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
MAJOR = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
MINOR = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR


def start_driver(index: int) -> None:
    """Initialise CUDA in this process; raise DriverError where there is no driver or no GPU `index`."""
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:  # the package looks for the driver's library at its first call
        raise DriverError(f"cuda-python finds no NVIDIA driver: {first_line(error)}") from error
    if status != SUCCESS:
        raise DriverError(f"cuda-python: cuInit failed with {status_text(status)}")
    count = call(driver.cuDeviceGetCount)
    if not 0 <= index < count:
        raise DriverError(f"cuda-python: there is no GPU {index}, CUDA sees {count}")


@functools.cache
def primary_context(index: int) -> Any:
    """Return a device's primary context.

    Retained once a process and never released, as PyTorch does: releasing the last hold would destroy
    what everybody else has in it.
    """
    return call(driver.cuDevicePrimaryCtxRetain, call(driver.cuDeviceGet, index))


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a driver function and return what it returns beside its status: nothing, a value or a tuple.

    Raises:
        BackendError: the status is not success, or the driver is too old to have the function.
    """
    try:
        status, *values = function(*arguments)
    except RuntimeError as error:
        raise BackendError(f"cuda-python: {function.__name__} cannot be called: {first_line(error)}") from error
    check(function, status)
    return values[0] if len(values) == 1 else tuple(values)


def check(function: Callable[..., Any], status: driver.CUresult) -> None:
    """Raise BackendError unless a driver function's status is success."""
    if status != SUCCESS:
        raise BackendError(f"cuda-python: {function.__name__} failed with {status_text(status)}")


def status_text(status: driver.CUresult) -> str:
    """Return a status as text, for example `CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)`."""
    known, words = driver.cuGetErrorString(status)
    name = getattr(status, "name", str(status))
    return f"{name} ({words.decode()})" if known == SUCCESS and words else name


def version_text(version: int) -> str:
    """Return CUDA's version number as text: 13020 is `CUDA 13.2`."""
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


# CUDA graphs, on plain handles: pycuda has none of its own and borrows these.


def capture(stream: int, work: Callable[[], None]) -> int:
    """See `CudaDevice.capture`."""
    # Thread-local: another thread that allocates meanwhile, in PyTorch for instance, does not break the capture.
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    call(driver.cuStreamBeginCapture, driver.CUstream(stream), mode)
    try:
        work()
    except BaseException:
        # The stream is of no use until its capture ends; what ending it says is a consequence of the error.
        status, graph = driver.cuStreamEndCapture(driver.CUstream(stream))
        if status == SUCCESS and int(graph):
            driver.cuGraphDestroy(graph)
        raise
    graph = call(driver.cuStreamEndCapture, driver.CUstream(stream))
    try:
        return int(call(driver.cuGraphInstantiate, graph, 0))
    finally:
        call(driver.cuGraphDestroy, graph)


def launch(graph: int, stream: int) -> None:
    """See `CudaDevice.launch`."""
    call(driver.cuGraphLaunch, driver.CUgraphExec(graph), driver.CUstream(stream))


def destroy_graph(graph: int) -> None:
    """See `CudaDevice.destroy_graph`."""
    call(driver.cuGraphExecDestroy, driver.CUgraphExec(graph))


class CudaPythonDevice:
    """See `CudaDevice`.

    Raises:
        BackendError: there is no driver or no such GPU (`DriverError`), or CUDA refuses it.
    """

    def __init__(self, index: int) -> None:
        self.layer = f"cuda-python {cuda.bindings.__version__}"
        start_driver(index)
        device = call(driver.cuDeviceGet, index)
        # The name comes in a buffer of zeros; in one version the zeros are part of it.
        self.name = call(driver.cuDeviceGetName, 256, device).split(b"\0")[0].decode()
        major, minor = (call(driver.cuDeviceGetAttribute, attribute, device) for attribute in (MAJOR, MINOR))
        self.compute_capability = f"{major}.{minor}"
        self.driver_version = version_text(call(driver.cuDriverGetVersion))
        self._context = primary_context(index)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        call(driver.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            call(driver.cuCtxPopCurrent)

    def memory_info(self) -> tuple[int, int]:
        free, total = call(driver.cuMemGetInfo)
        return int(free), int(total)

    def create_stream(self) -> int:
        return int(call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value))

    def destroy_stream(self, stream: int) -> None:
        call(driver.cuStreamDestroy, driver.CUstream(stream))

    def synchronize(self, stream: int) -> None:
        call(driver.cuStreamSynchronize, driver.CUstream(stream))

    def allocate(self, size_bytes: int) -> int:
        status, address = driver.cuMemAlloc(size_bytes)
        if status == OUT_OF_MEMORY:
            raise out_of_memory("GPU memory", size_bytes, *self.memory_info())
        check(driver.cuMemAlloc, status)
        return int(address)

    def free(self, address: int) -> None:
        call(driver.cuMemFree, driver.CUdeviceptr(address))

    def host_array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        status, address = driver.cuMemHostAlloc(size_bytes, 0)
        if status == OUT_OF_MEMORY:
            raise out_of_memory("page-locked memory", size_bytes, *self.memory_info())
        check(driver.cuMemHostAlloc, status)
        memory = (ctypes.c_byte * size_bytes).from_address(int(address))
        return np.frombuffer(memory, dtype).reshape(shape)

    def free_host_array(self, array: NDArray[Any]) -> None:
        call(driver.cuMemFreeHost, array.ctypes.data)

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        target = driver.CUdeviceptr(address)
        call(driver.cuMemcpyHtoDAsync, target, array.ctypes.data, array.nbytes, driver.CUstream(stream))

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        source = driver.CUdeviceptr(address)
        call(driver.cuMemcpyDtoHAsync, array.ctypes.data, source, array.nbytes, driver.CUstream(stream))

    def create_event(self) -> int:
        return int(call(driver.cuEventCreate, driver.CUevent_flags.CU_EVENT_DEFAULT.value))

    def destroy_event(self, event: int) -> None:
        call(driver.cuEventDestroy, driver.CUevent(event))

    def record(self, event: int, stream: int) -> None:
        call(driver.cuEventRecord, driver.CUevent(event), driver.CUstream(stream))

    def elapsed_ms(self, start: int, end: int) -> float:
        call(driver.cuEventSynchronize, driver.CUevent(end))
        return float(call(driver.cuEventElapsedTime, driver.CUevent(start), driver.CUevent(end)))

    capture = staticmethod(capture)
    launch = staticmethod(launch)
    destroy_graph = staticmethod(destroy_graph)
