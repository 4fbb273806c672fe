"""ONNX Runtime on the device pointers that the stand-in is given: the only place that computes."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from tensorrt import driver


class Binding(NamedTuple):
    """A tensor at a device address, and its size then and there."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    address: int

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


def open_session(onnx: bytes, stream: int | None, *, allow_tf32: bool) -> Any:
    """Open a session on the card of the current context, whose work goes into a stream; on the CPU for None."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    providers: list[Any] = ["CPUExecutionProvider"]
    if stream is not None:
        # CUDA's libraries may be in PyTorch's packages alone.
        onnxruntime.preload_dlls()
        settings = {
            "device_id": str(driver.device_number()),
            "user_compute_stream": str(stream),
            "use_tf32": str(int(allow_tf32)),
        }
        providers = [("CUDAExecutionProvider", settings), *providers]
    session = onnxruntime.InferenceSession(onnx, options, providers=providers)
    if stream is not None and session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("ONNX Runtime has no CUDA here, so that the stand-in cannot run on a real card")
    # Otherwise a card that fails later is replaced by the CPU, which cannot reach its memory.
    session.disable_fallback()
    return session


def run(session: Any, bindings: Iterable[Binding]) -> None:
    """Run a session on device memory; on a real card this returns when the work is queued.

    Raises:
        Misuse: a tensor is not, or no longer, within an allocation of the card.
    """
    kind, number = ("cpu", 0) if driver.is_fake() else ("cuda", driver.device_number())
    bound = session.io_binding()
    for each in bindings:
        if driver.room_at(each.address) < each.size_bytes:
            raise driver.Misuse(f"{each.name}: {each.size_bytes} bytes are not within memory that the card has given")
        bind = bound.bind_input if each.is_input else bound.bind_output
        bind(each.name, kind, number, each.dtype, list(each.shape), each.address)
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    session.run_with_iobinding(bound, options)
