"""OpenVINO on the CPU. No torch, no onnx.

A file is cut in two where the network ends: what is behind it, decode and NMS, is always computed in float32, as in
every other backend, whatever the network computes in. OpenVINO by itself would round the boxes that NMS compares.
"""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13

from export.exported import read_exported
from export.file_metadata import CPU_GRAPH_KEY
from export.one_file import check_one_file
from ssd_deploy.backends.base import RawPredictions, check_images, check_model_file, check_values, filled
from ssd_deploy.backends.openvino_ties import keep_order_of_ties
from ssd_deploy.backends.row import IN_MEMORY, RunOptions
from ssd_train.cpus import default_threads
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError, first_line
from ssd_train.preprocess import Images
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES, DetectorSpec

log = logging.getLogger(__name__)

DEVICE = "CPU"

# What OpenVINO calls a precision that a float32 file can be computed in, and the units of a CPU for it.
HINTS = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16, "fp16": openvino.Type.f16}
UNITS = {"bf16": "BF16", "fp16": "FP16"}

# Lines of its messages that say nothing of the model.
_ABOUT_ITSELF = re.compile(
    "Exception from|Check '|FrontEnd API failed|Model wasn't|While validating|.* with a message:|Summary:|"
    "Failed to create plugin|Please, check"
)


class OpenVINORunner:
    """Runs an exported file.

    Args:
        model: a file that `ssd-deploy export` wrote, or what is in one.
        precision: key of `HINTS`: what a float32 file's network is computed in. A file of another precision has its
            own, and floats in it are computed in float32.
        threads: CPU threads of one operator; 0 for `cpus.default_threads`.

    Attributes:
        cpu_threads: that OpenVINO uses for an operator.

    Raises:
        ModelError: the file is missing, broken, not ours, or rewritten for ONNX Runtime.
        BackendError: the precision does not fit the file, or this CPU does not compute in it.
    """

    max_batch_size: int | None

    def __init__(self, model: Path | bytes, *, precision: str = "fp32", threads: int = 0) -> None:
        self._called = IN_MEMORY if isinstance(model, bytes) else str(model)
        content = model if isinstance(model, bytes) else _content(model)
        exported = read_exported(content, self._called)
        check_one_file(content, self._called)
        self.spec = exported.spec
        self.max_batch_size = self.spec.batch_size
        if CPU_GRAPH_KEY in exported.metadata:
            raise ModelError(
                f"{self._called}: was rewritten for ONNX Runtime on one CPU; name the file that it was made of"
            )
        if precision != "fp32":
            if self.spec.precision != "fp32":
                raise BackendError(
                    f"{self._called}: is {self.spec.precision} already, and OpenVINO computes a float32 file in "
                    f"{precision}; leave {precision} out, or name the float32 file",
                    arguments=("precision",),
                )
            self.spec = dataclasses.replace(self.spec, precision=precision)
        core = openvino.Core()
        network, postprocess = _cut(_read(core, content, self.spec, self._called), self._called)
        settings = {
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads or default_threads(),
            # Two processes would be bound to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._network: Any = core.compile_model(
                network, DEVICE, settings | {"INFERENCE_PRECISION_HINT": HINTS[precision]}
            )
            self._postprocess: Any = core.compile_model(
                postprocess, DEVICE, settings | {"INFERENCE_PRECISION_HINT": HINTS["fp32"]}
            )
        except Exception as error:  # OpenVINO's exceptions share no narrower base
            raise ModelError(f"{self._called}: OpenVINO cannot run it ({_reason(error)})") from error
        # OpenVINO takes another precision in silence where the CPU has no such units, or computes with others.
        used = self._network.get_property("INFERENCE_PRECISION_HINT")
        if used != HINTS[precision]:
            raise BackendError(
                f"{self._called}: this CPU computes nothing in {precision} (OpenVINO took {used.get_type_name()}); "
                "use fp32",
                arguments=("precision",),
            )
        is_emulated = precision in UNITS and UNITS[precision] not in _units(core)
        if is_emulated:
            log.warning(
                "this CPU has no %s units: OpenVINO computes the same with others, several times slower than fp32",
                precision,
            )
        parts = [DEVICE, *([precision] if precision != "fp32" else []), *(["emulated"] if is_emulated else [])]
        self.name = f"openvino ({', '.join(parts)})"
        self.cpu_threads = int(self._network.get_property("INFERENCE_NUM_THREADS"))
        # A request serves one call at a time; each thread that calls takes one, or makes one more.
        self._free: list[_Requests] = []

    def run(self, images: Images) -> PaddedDetections:
        """See `Runner.run`. Calls of several threads are computed one after the other."""
        check_images(images, self.spec, self.max_batch_size)
        return PaddedDetections(*self._call(images, OUTPUT_NAMES))

    def run_raw(self, images: Images) -> RawPredictions:
        """See `Runner.run_raw`."""
        check_images(images, self.spec, self.max_batch_size)
        return RawPredictions(*self._call(images, RAW_NAMES))

    def close(self) -> None:
        """See `Runner.close`."""
        self._free.clear()
        self._network = self._postprocess = None

    def _call(self, images: Images, names: tuple[str, ...]) -> list[NDArray[Any]]:
        try:
            requests = self._free.pop()
        except IndexError:
            requests = _Requests(self._network.create_infer_request(), self._postprocess.create_infer_request())
        try:
            batch = np.ascontiguousarray(filled(images, self.spec.batch_size))
            found = requests.infer({self.spec.input.tensor: batch}, names)
        except Exception as error:  # OpenVINO's exceptions share no narrower base
            raise BackendError(f"{self._called}: OpenVINO failed to run it ({_reason(error)})") from error
        self._free.append(requests)
        return [values[: len(images)] for values in found]


class _Requests:
    """What one call at a time runs in: the network, and decode and NMS behind it."""

    def __init__(self, network: Any, postprocess: Any) -> None:
        self._network, self._postprocess = network, postprocess

    def infer(self, images: dict[str, Images], names: tuple[str, ...]) -> list[NDArray[Any]]:
        """Return copies of the outputs `names`, all raw predictions or all detections, for a batch by its name."""
        last = self._network
        last.infer(images, share_inputs=True)
        if names != RAW_NAMES:
            last = self._postprocess
            for name in RAW_NAMES:
                # Its memory moves with the size of the batch.
                last.set_tensor(name, self._network.get_tensor(name))
            last.infer()
        return [last.get_tensor(name).data.copy() for name in names]


def open_runner(model: Any, options: RunOptions) -> OpenVINORunner:
    """Open an exported file, or what is in one; see `backends.Backend.open`."""
    if not isinstance(model, Path | bytes):
        raise BackendError("the openvino backend runs a .onnx file; export the network first")
    return OpenVINORunner(model, precision=next(iter(options.variants), "fp32"), threads=options.threads)


def try_out(content: bytes) -> list[str]:
    """Prepare what is in an ONNX file to run; returns what this CPU has units for, see `UNITS`."""
    core = openvino.Core()
    core.compile_model(core.read_model(content), DEVICE)
    return _units(core)


def _units(core: Any) -> list[str]:
    return list(core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


def _content(path: Path) -> bytes:
    check_model_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def _read(core: Any, content: bytes, spec: DetectorSpec, name: str) -> Any:
    """Read an ONNX file; from memory, since OpenVINO cannot be told every file name."""
    try:
        model = core.read_model(content)
    except Exception as error:  # OpenVINO's exceptions share no narrower base
        raise ModelError(
            f"{name}: is not a usable ONNX file ({_reason(error)}); make one with `ssd-deploy export`"
        ) from error
    inputs, outputs = ({each for value in side for each in value.names} for side in (model.inputs, model.outputs))
    check_values(inputs, outputs, spec, name)
    keep_order_of_ties(model)
    return model


def _cut(model: Any, name: str) -> tuple[Any, Any]:
    """Return a model's network, from images to raw predictions, and what is behind it; the model is used up."""
    outputs = (output for node in model.get_ops() for output in node.outputs())
    raw = {each: output for output in outputs for each in output.get_names() if each in RAW_NAMES}
    missing = [each for each in RAW_NAMES if each not in raw]
    if missing:
        raise ModelError(f"{name}: has no inner value {', '.join(missing)}; export it again with `ssd-deploy export`")
    parameters, results = [], []
    for each in RAW_NAMES:
        output = raw[each]
        parameter = opset13.parameter(output.get_partial_shape(), output.get_element_type(), name=each)
        for target in output.get_target_inputs():
            target.replace_source_output(parameter.output(0))
        parameter.output(0).set_names({each})
        result = opset13.result(output)
        output.set_names({each})
        parameters.append(parameter)
        results.append(result)
    try:
        return openvino.Model(results, model.get_parameters()), openvino.Model(model.get_results(), parameters)
    except Exception as error:  # decode and NMS reach around the raw predictions
        raise ModelError(f"{name}: OpenVINO cannot run it ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return the line of OpenVINO's message that says what is wrong; most name its source files and its checks."""
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines()]
    telling = [line for line in lines if line and not _ABOUT_ITSELF.match(line)]
    unknown = [line for line in telling if line.startswith("No conversion rule")]
    return first_line((unknown or telling or [str(error) or type(error).__name__])[0])
