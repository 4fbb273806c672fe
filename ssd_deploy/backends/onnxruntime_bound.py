"""A session of ONNX Runtime for one batch size, whose input and outputs stay where they are in a device's memory.

That is what a CUDA graph needs, which replays addresses. On the CPU the same code works with the CPU's memory.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ssd_deploy.backends.cuda_open import open_device
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, first_line
from ssd_train.preprocess import Images
from ssd_train.spec import OUTPUT_NAMES

DTYPES: dict[str, Any] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint8)": np.dtype(np.uint8),
}

# An array in page-locked memory, and what gives it back.
Staging = tuple[NDArray[Any], Callable[[], None]]


class BoundSession:
    """Runs batches of one size.

    With the provider option `enable_cuda_graph` a session must be this object's own, and be run by one thread: ONNX
    Runtime keeps a graph with the thread that captured it, and a replay reads page-locked memory that older releases
    give to the next other run of the session (the sizes and addresses of a Concat, for instance).

    Args:
        session: of an exported file.
        shape: of the batches.
        device: where the values lie: ONNX Runtime's name and number, `("cuda", 0)`.
        called: what errors call the file.
        staging: shape, type, number of a GPU -> page-locked memory to copy from, or None for the caller's own.

    Raises:
        BackendError: there is no memory for the values, or the file's outputs have no fixed size.
    """

    def __init__(
        self,
        session: Any,
        shape: tuple[int, ...],
        device: tuple[str, int],
        called: str,
        *,
        staging: Callable[[tuple[int, ...], np.dtype[Any], int], Staging | None] | None = None,
    ) -> None:
        self._called = called
        self._session = session
        with self._sentences():
            self._binding = session.io_binding()
            # Held by names: the binding alone does not keep the memory alive.
            (images,) = session.get_inputs()
            self._input = _value(shape, DTYPES[images.type], device)
            self._outputs = {
                output.name: _value((shape[0], *output.shape[1:]), DTYPES[output.type], device)
                for output in session.get_outputs()
                if output.name in OUTPUT_NAMES
            }
            self._binding.bind_ortvalue_input(images.name, self._input)
            for name, value in self._outputs.items():
                self._binding.bind_ortvalue_output(name, value)
        take = staging or page_locked
        self._staging = take(shape, DTYPES[images.type], device[1]) if device[0] == "cuda" or staging else None

    def run(self, images: Images) -> PaddedDetections:
        """Detect in a batch of the one size; the answer is in new arrays."""
        self._load(images)
        self._compute()
        with self._sentences():
            return PaddedDetections(*(np.array(self._outputs[name].numpy()) for name in OUTPUT_NAMES))

    def times_ms(self, images: Images, runs: int) -> list[float]:
        """Return the times of `runs` computations in milliseconds by the host's clock, without the copies."""
        self._load(images)
        times_ms = []
        for _ in range(runs):
            start = time.perf_counter()
            self._compute()
            times_ms.append((time.perf_counter() - start) * 1e3)
        return times_ms

    def close(self) -> None:
        """Let the session and its memory go; may be called twice."""
        if self._staging is not None:
            self._staging[1]()
        self._binding = self._session = self._input = self._staging = None
        self._outputs = {}

    def _load(self, images: Images) -> None:
        """Copy a batch into the input, through page-locked memory where there is some."""
        if self._staging is None:
            source = np.ascontiguousarray(images)
        else:
            source = self._staging[0]
            np.copyto(source, images)
        with self._sentences():
            self._input.update_inplace(source)
            self._binding.synchronize_inputs()

    def _compute(self) -> None:
        with self._sentences():
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # ONNX Runtime's exceptions share no narrower base
            raise BackendError(f"{self._called}: ONNX Runtime failed to run it ({first_line(error)})") from error


def page_locked(shape: tuple[int, ...], dtype: np.dtype[Any], number: int) -> Staging | None:
    """Return memory that a GPU reads without a copy in between; None where no CUDA package for Python gives any."""
    try:
        device = open_device(number)
        with device.current():
            array = device.host_array(shape, dtype)
    except BackendError:
        return None

    def free() -> None:
        with device.current():
            device.free_host_array(array)

    return array, free


def _value(shape: tuple[int, ...], dtype: Any, device: tuple[str, int]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, *device)
