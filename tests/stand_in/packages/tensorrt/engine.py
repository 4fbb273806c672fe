"""A plan of the stand-in at work: runtime, engine, execution contexts, and the inspector."""

import json
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from tensorrt import driver, sessions
from tensorrt.builder import IHostMemory
from tensorrt.callbacks import ILogger, checked_logger, need_card
from tensorrt.driver import Counted, Misuse
from tensorrt.enumerations import DataType, LayerInformationFormat, TensorIOMode
from tensorrt.network import Dims, INetworkDefinition
from tensorrt.plan_file import VERSION, PlanHeader, read_plan

NUMPY = {
    DataType.FLOAT: np.dtype(np.float32),
    DataType.INT64: np.dtype(np.int64),
    DataType.HALF: np.dtype(np.float16),
    DataType.UINT8: np.dtype(np.uint8),
}

# What TensorRT asks of a tensor's address.
ALIGNMENT = 256

# A context's scratch memory; real, so that one that is never destroyed is missed.
SCRATCH_BYTES = 256


class Runtime(Counted):
    def __init__(self, logger: ILogger) -> None:
        super().__init__()
        self._logger = checked_logger(logger)
        need_card(logger)
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes | IHostMemory) -> "ICudaEngine | None":
        try:
            header, model = read_plan(bytes(serialized_engine))
            self._check(header)
            return ICudaEngine(self, header, model)
        except ValueError as error:
            self._logger.log(ILogger.Severity.ERROR, f"stand-in: {error}")
            return None

    def _check(self, header: PlanHeader) -> None:
        """Raise ValueError where a plan does not belong to this version or card."""
        card = driver.card()
        if header.version != VERSION and not (header.is_version_compatible and self.engine_host_code_allowed):
            raise ValueError(f"the plan is of version {header.version}, this is {VERSION}: version tag does not match")
        if card != (header.gpu, header.compute_capability) and not header.is_hardware_compatible:
            raise ValueError(f"the plan was built on {header.gpu} ({header.compute_capability}), this is {card}")


class ICudaEngine(Counted):
    def __init__(self, runtime: Runtime, header: PlanHeader, model: bytes) -> None:
        super().__init__()
        network = INetworkDefinition()
        try:
            network._read(onnx.load_from_string(model))
        except Exception as error:  # protobuf's errors have no base in common
            raise ValueError(f"the plan's network is broken ({error})") from error
        # The bindings keep a runtime as long as its engines, and an engine as long as its contexts.
        self._runtime = runtime
        self._header = header
        self._model = model
        self._tensors = {
            tensor.name: (mode, tensor.dtype, tuple(tensor.shape))
            for mode, tensors in ((TensorIOMode.INPUT, network._inputs), (TensorIOMode.OUTPUT, network._outputs))
            for tensor in tensors
        }
        # Stream -> session: ONNX Runtime is told its stream when it opens a file. One under 0 serves the fake card.
        self._sessions: dict[int, Any] = {}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name][1]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name][2])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if self._tensors[name][0] != TensorIOMode.INPUT:
            raise Misuse(f"{name} is no input and has no profile")
        return [Dims(shape) for shape in self._header.profiles[profile_index][name]]

    def create_execution_context(self) -> "IExecutionContext | None":
        driver.need_context("create_execution_context")
        scratch = driver.allocate(SCRATCH_BYTES)
        if scratch is None:
            self._runtime._logger.log(ILogger.Severity.ERROR, "stand-in: out of memory")
            return None
        return IExecutionContext(self, scratch)

    def create_engine_inspector(self) -> "EngineInspector":
        return EngineInspector(self)

    def _session(self, stream: int) -> Any:
        key = 0 if driver.is_fake() else stream
        if key not in self._sessions:
            place = None if driver.is_fake() else stream
            self._sessions[key] = sessions.open_session(self._model, place, allow_tf32=self._header.allow_tf32)
        return self._sessions[key]


class IExecutionContext(Counted):
    def __init__(self, engine: ICudaEngine, scratch: int) -> None:
        super().__init__()
        self._engine = engine
        self._scratch = scratch
        self._log = engine._runtime._logger
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {
            name: shape for name, (mode, _, shape) in engine._tensors.items() if mode == TensorIOMode.INPUT
        }
        # Whether it has run since its shapes were set: what TensorRT does at the next run cannot be captured.
        self._is_settled = False
        self._is_captured = False
        self._busy = threading.Lock()
        # Numbers of the work in streams that is not done, and of what graphs do again and again.
        self._queued: set[int] = set()
        self._recorded: list[int] = []

    def __del__(self) -> None:
        if sys.is_finalizing():
            return
        super().__del__()
        for number in (*self._queued, *self._recorded):
            driver.drop(number)
        if self._queued:
            driver.misuses.append("an execution context is destroyed while its work is queued")
        driver.need_context("destroying an execution context")
        driver.free(self._scratch)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._changing()
        if name not in self._engine._tensors:
            return self._refused(f"there is no tensor {name}")
        if memory % ALIGNMENT:
            return self._refused(f"the address of {name} is no multiple of {ALIGNMENT}")
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self._changing()
        if name not in self._shapes:
            return self._refused(f"there is no input {name}")
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        asked = tuple(shape)
        fits = len(asked) == len(low) and all(a <= b <= c for a, b, c in zip(low, asked, high, strict=True))
        if not fits:
            return self._refused(f"{name} of shape {asked} is not within the profile {tuple(low)} to {tuple(high)}")
        self._shapes[name] = asked
        self._is_settled = False
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name, shape in self._shapes.items() if -1 in shape]

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._shapes:
            return Dims(self._shapes[name])
        # The batch is the one size of a detector that is not in the file.
        batch = next(iter(self._shapes.values()))[0]
        return Dims([batch if size == -1 else size for size in self._engine._tensors[name][2]])

    def execute_async_v3(self, stream_handle: int) -> bool:
        driver.need_context("execute_async_v3")
        if not self._busy.acquire(blocking=False):
            raise Misuse("an execution context is used by two threads at a time")
        try:
            return self._execute(stream_handle)
        finally:
            self._busy.release()

    def _execute(self, stream: int) -> bool:
        if missing := self.infer_shapes():
            return self._refused(f"the shape of {', '.join(missing)} is not set")
        if missing := [name for name in self._engine._tensors if name not in self._addresses]:
            return self._refused(f"the address of {', '.join(missing)} is not set")
        is_captured = driver.is_capturing(stream)
        if is_captured and not self._is_settled:
            return self._refused("the first run after a change of shapes cannot be captured")
        bindings = [
            sessions.Binding(
                name=name,
                is_input=mode == TensorIOMode.INPUT,
                dtype=NUMPY[dtype],
                shape=tuple(self.get_tensor_shape(name)),
                address=self._addresses[name],
            )
            for name, (mode, dtype, _) in self._engine._tensors.items()
        ]
        for each in bindings:
            if driver.room_at(each.address) < each.size_bytes:
                raise Misuse(f"{each.name}: {each.size_bytes} bytes are not within memory that the card has given")
        try:
            session = self._engine._session(stream)
            if driver.is_fake():
                self._queue(stream, session, bindings, is_captured)
            else:
                sessions.run(session, bindings)
        except Misuse:
            raise
        except Exception as error:  # ONNX Runtime's errors have no base in common
            return self._refused(str(error))
        self._is_settled = True
        self._is_captured = self._is_captured or is_captured
        return True

    def _queue(self, stream: int, session: Any, bindings: list[sessions.Binding], is_captured: bool) -> None:
        # Not the context itself, which would live as long as its work.
        queued = self._queued

        def work() -> None:
            if not is_captured:
                queued.discard(number)
                driver.drop(number)
            sessions.run(session, bindings)

        number = driver.queue(stream, work)
        if is_captured:
            self._recorded.append(number)
        else:
            queued.add(number)

    def _changing(self) -> None:
        if self._is_captured:
            raise Misuse("an execution context is changed after a graph was captured from it")
        if self._queued:
            raise Misuse("an execution context is changed while its work is queued")

    def _refused(self, words: str) -> bool:
        self._log.log(ILogger.Severity.ERROR, f"stand-in: {words}")
        return False


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self.execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        """Describe the convolutions, with the types that the file has: the stand-in knows no others."""
        model = onnx.load_from_string(self._engine._model)
        if not self._engine._header.is_detailed:
            return json.dumps({"Layers": [node.name for node in model.graph.node]})
        network = INetworkDefinition()
        network._read(model)
        types = {
            tensor.name: tensor.dtype.name
            for layer in network._layers
            for tensor in layer._outputs
            if tensor._value is not None
        }
        types |= {tensor.name: tensor.dtype.name for tensor in network._inputs}
        words = {"FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT8": "Int8"}
        layers = [
            {
                "Name": node.name,
                "LayerType": "StandInConvolution",
                "ParameterType": "Convolution",
                "Inputs": [{"Name": node.input[0], "Format/Datatype": words.get(types.get(node.input[0], ""), "")}],
                "Outputs": [{"Name": node.output[0], "Format/Datatype": words.get(types.get(node.output[0], ""), "")}],
            }
            for node in model.graph.node
            if node.op_type == "Conv"
        ]
        return json.dumps({"Layers": layers})
