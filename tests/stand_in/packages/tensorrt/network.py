"""ONNX bytes -> a network of the stand-in: layers and tensors as the project looks at them."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import onnx

from tensorrt.callbacks import ILogger, checked_logger
from tensorrt.driver import Counted
from tensorrt.enumerations import DataType, ErrorCode

TYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.BFLOAT16: DataType.BF16,
    onnx.TensorProto.INT8: DataType.INT8,
    onnx.TensorProto.UINT8: DataType.UINT8,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT64: DataType.INT64,
    onnx.TensorProto.BOOL: DataType.BOOL,
}

# What TensorRT has no layer for; the project promises files without it.
REFUSED = ("NonMaxSuppression",)


class Dims:
    """A shape; no tuple, and not equal to one."""

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._sizes = tuple(int(size) for size in shape)

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    @overload
    def __getitem__(self, arg0: int) -> int: ...
    @overload
    def __getitem__(self, arg0: slice) -> tuple[int, ...]: ...
    def __getitem__(self, arg0: Any) -> Any:
        return self._sizes[arg0]


class ITensor:
    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        # None for an inner value of which nothing is known.
        self._value = value

    @property
    def dtype(self) -> DataType:
        return TYPES[self._value.type.tensor_type.elem_type]

    @property
    def shape(self) -> Dims:
        sizes = self._value.type.tensor_type.shape.dim
        return Dims([size.dim_value if size.HasField("dim_value") else -1 for size in sizes])


class ILayer:
    def __init__(self, node: Any, values: dict[str, Any]) -> None:
        self.name = node.name
        self._outputs = [ITensor(name, values.get(name)) for name in node.output]

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class INetworkDefinition(Counted):
    def __init__(self) -> None:
        super().__init__()
        self._model = onnx.ModelProto()
        self._layers: list[ILayer] = []
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []

    def _read(self, model: onnx.ModelProto) -> None:
        graph = onnx.shape_inference.infer_shapes(model).graph
        values = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
        stored = {each.name for each in graph.initializer}
        self._model = model
        self._layers = [ILayer(node, values) for node in graph.node]
        self._inputs = [ITensor(each.name, each) for each in graph.input if each.name not in stored]
        self._outputs = [ITensor(each.name, each) for each in graph.output]

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def mark_output(self, tensor: ITensor) -> None:
        self._outputs.append(tensor)

    def unmark_output(self, tensor: ITensor) -> None:
        self._outputs = [each for each in self._outputs if each.name != tensor.name]

    def _onnx(self) -> bytes:
        """Return an ONNX file with the outputs that are marked."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.output[:]
        model.graph.output.extend(output._value for output in self._outputs)
        return bytes(model.SerializeToString())


class ParserError:
    def __init__(self, code: ErrorCode, words: str, node: Any = None) -> None:
        self._code, self._words, self._node = code, words, node

    def code(self) -> ErrorCode:
        return self._code

    def desc(self) -> str:
        return self._words

    def node_name(self) -> str:
        return self._node.name if self._node else ""

    def node_operator(self) -> str:
        return self._node.op_type if self._node else ""


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._logger = checked_logger(logger)
        self._errors: list[ParserError] = []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            read = onnx.load_from_string(model)
            onnx.checker.check_model(read)
        except Exception as error:  # protobuf's, the checker's and others have no base in common
            return self._failed(ParserError(ErrorCode.MODEL_DESERIALIZE_FAILED, f"stand-in: {error}"))
        for node in read.graph.node:
            if node.op_type in REFUSED:
                return self._failed(ParserError(ErrorCode.UNSUPPORTED_NODE, "stand-in: no such layer", node))
        self._network._read(read)
        return True

    def _failed(self, error: ParserError) -> bool:
        self._errors.append(error)
        self._logger.log(ILogger.Severity.ERROR, error.desc())
        return False

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]
