"""Is all of an ONNX model in its one file? No onnx: the file's bytes are looked through."""

from export.protobuf import DAMAGED, fields
from ssd_train.errors import ModelError
from ssd_train.json_input import quoted

# Where tensors are, by the numbers of onnx.proto3: kind of message -> field -> kind of message in it.
_INNER = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    # Not followed further: of a tensor it is asked where its values are.
    "tensor": {},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 8, 13, 14, 1


def check_one_file(content: bytes, name: str) -> None:
    """Raise ModelError where a tensor's values are in another file, which a reader would look for by any path.

    Args:
        content: of an ONNX file.
        name: what errors call it.
    """
    waiting = [("model", memoryview(content))]
    try:
        while waiting:
            kind, message = waiting.pop()
            if kind == "tensor":
                _check_inside(message, name)
            inner = _INNER[kind]
            waiting += [(inner[field.number], field.content) for field in fields(message) if field.number in inner]
    except DAMAGED as error:
        raise ModelError(f"{name}: is not a usable ONNX file ({error}); make one with `ssd-deploy export`") from error


def _check_inside(tensor: memoryview, name: str) -> None:
    found = list(fields(tensor))
    if any(each.number == _EXTERNAL_DATA or (each.number, each.value) == (_DATA_LOCATION, _EXTERNAL) for each in found):
        called = next((bytes(each.content).decode(errors="replace") for each in found if each.number == _NAME), "")
        raise ModelError(
            f"{name}: keeps {quoted(called) if called else 'weights'} in another file, and a model is one file here; "
            "make one with `ssd-deploy export`"
        )
