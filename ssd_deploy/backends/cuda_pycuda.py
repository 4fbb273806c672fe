"""A GPU through pycuda.

pycuda keeps a stack of contexts a thread beside CUDA's own. It aborts the process when a thread ends with
something left on its stack, and leaks what is freed on a thread where its context is not on top. So nothing
is left there, and whatever is taken is given back by name, inside `current`.
"""

import atexit
import contextlib
import ctypes
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from ssd_deploy.backends.cuda_device import DriverError, out_of_memory, require_cuda_python
from ssd_train.errors import BackendError

# CU_STREAM_NON_BLOCKING in cuda.h, which pycuda has no name for.
NON_BLOCKING = 1


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn pycuda's errors into BackendError; also a decorator."""
    import pycuda.driver

    try:
        yield
    except pycuda.driver.Error as error:
        raise BackendError(f"pycuda: {error}") from error


class PycudaDevice:
    """See `CudaDevice`.

    Raises:
        BackendError: pycuda does not load or refuses the device; `DriverError` where the driver is at fault.
    """

    def __init__(self, index: int) -> None:
        import_autoprimaryctx()
        import pycuda
        import pycuda.driver

        self._driver: Any = pycuda.driver
        self.layer = f"pycuda {pycuda.VERSION_TEXT}"
        try:
            count = self._driver.Device.count()
            if not 0 <= index < count:
                raise DriverError(f"pycuda: there is no GPU {index}, CUDA sees {count}")
            device = self._driver.Device(index)
            self.name = device.name()
            major, minor = device.compute_capability()
            version = self._driver.get_driver_version()
            self._context = primary_context(index)
        except self._driver.Error as error:
            raise DriverError(f"pycuda: {error}") from error
        self.compute_capability = f"{major}.{minor}"
        self.driver_version = f"CUDA {version // 1000}.{version % 1000 // 10}"
        # pycuda has objects where this interface has numbers; each is kept here until it is given back.
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._allocations: dict[int, Any] = {}

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        with translated():
            self._context.push()
        try:
            yield
        finally:
            with translated():
                self._driver.Context.pop()

    @translated()
    def memory_info(self) -> tuple[int, int]:
        free, total = self._driver.mem_get_info()
        return int(free), int(total)

    @translated()
    def create_stream(self) -> int:
        stream = self._driver.Stream(NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    @translated()
    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]

    @translated()
    def synchronize(self, stream: int) -> None:
        self._streams[stream].synchronize()

    @translated()
    def allocate(self, size_bytes: int) -> int:
        try:
            allocation = self._driver.mem_alloc(size_bytes)
        except self._driver.MemoryError as error:
            raise out_of_memory("GPU memory", size_bytes, *self.memory_info()) from error
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    @translated()
    def free(self, address: int) -> None:
        self._allocations.pop(address).free()

    @translated()
    def host_array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        try:
            return self._driver.pagelocked_empty(shape, dtype)
        except self._driver.MemoryError as error:
            raise BackendError(f"page-locked memory for an array of {shape} cannot be had (pycuda: {error})") from error

    @translated()
    def free_host_array(self, array: NDArray[Any]) -> None:
        allocation: Any = array.base
        allocation.free()

    @translated()
    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        self._driver.memcpy_htod_async(address, array, self._streams[stream])

    @translated()
    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        self._driver.memcpy_dtoh_async(array, address, self._streams[stream])

    @translated()
    def create_event(self) -> int:
        event = self._driver.Event()
        # Its handle is not to be had, and nobody needs it.
        self._events[id(event)] = event
        return id(event)

    @translated()
    def destroy_event(self, event: int) -> None:
        del self._events[event]

    @translated()
    def record(self, event: int, stream: int) -> None:
        self._events[event].record(self._streams[stream])

    @translated()
    def elapsed_ms(self, start: int, end: int) -> float:
        self._events[end].synchronize()
        return float(self._events[start].time_till(self._events[end]))

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        try:
            require_cuda_python()
        except BackendError as error:
            raise BackendError(
                f"CUDA graphs need cuda-python beside pycuda, which has none ({error}): pip install cuda-python"
            ) from error
        import ssd_deploy.backends.cuda_python as cuda_python

        return cuda_python.capture(stream, work)

    def launch(self, graph: int, stream: int) -> None:
        import ssd_deploy.backends.cuda_python as cuda_python

        cuda_python.launch(graph, stream)

    def destroy_graph(self, graph: int) -> None:
        import ssd_deploy.backends.cuda_python as cuda_python

        cuda_python.destroy_graph(graph)


def import_autoprimaryctx() -> None:
    """Import `pycuda.autoprimaryctx`, which starts CUDA, and take its context off this thread again.

    The import leaves the primary context on the stack of the thread that happens to import it, up to the
    end of the process. Where the program has imported it before, its context is left in place.

    Raises:
        BackendError: pycuda does not load; `DriverError` where the driver or the GPU is missing.
    """
    if "pycuda.autoprimaryctx" in sys.modules:
        return
    try:
        with warnings.catch_warnings():
            # It warns of what it then raises.
            warnings.simplefilter("ignore")
            import pycuda.autoprimaryctx as primary
            import pycuda.driver
    except Exception as error:  # pycuda's own errors cannot be named before it loads, and have no narrower base
        # The compiled part links to the driver's library; any other failed import is the package's own trouble.
        broken = isinstance(error, ImportError) and "libcuda" not in str(error)
        raise (BackendError if broken else DriverError)(f"pycuda does not start: {error}") from error
    pycuda.driver.Context.pop()
    never_destroy(primary.context)
    # At exit it would pop what is popped already.
    atexit.unregister(primary._finish_up)


@functools.cache
def primary_context(index: int) -> Any:
    """Return pycuda's object for a device's primary context, held for the life of the process as PyTorch does."""
    import pycuda.autoprimaryctx as primary
    import pycuda.driver

    device = pycuda.driver.Device(index)
    if primary.device == device:
        return primary.context
    context = device.retain_primary_context()
    never_destroy(context)
    return context


def never_destroy(context: Any) -> None:
    """Keep a context up to the end of the process, which gives it back.

    The destructor of pycuda's primary contexts calls `cuCtxDetach`, meant for contexts of the other kind, and
    prints a warning where that fails.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
