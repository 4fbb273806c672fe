"""What a file says of itself is held against its graph, and broken files are one sentence, without onnx being run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.exported import read_exported
from export.graph import load_exported
from export.protobuf import with_length
from export.session import describe_exported
from ssd_train.errors import ModelError
from ssd_train.spec import DetectorSpec

SPEC = DetectorSpec(network="tiny", class_names=("dot", "line"), input_size=(16, 24))


def tiny_model() -> onnx.ModelProto:
    """A graph with a detector's input and raw predictions, three columns of them: two classes and the background."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weights"], ["features"], strides=[8, 8]),
            helper.make_node("Reshape", ["features", "shape"], ["cls_logits"]),
            helper.make_node("Identity", ["cls_logits"], ["boxes"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 16, 24])],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 6, 3])],
        [
            numpy_helper.from_array(np.ones((3, 3, 8, 8), np.float32), "weights"),
            numpy_helper.from_array(np.array([-1, 6, 3]), "shape"),
        ],
        value_info=[helper.make_tensor_value_info("cls_logits", TensorProto.FLOAT, ["N", 6, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, SPEC.to_metadata())
    return model


def with_spec(**changes: object) -> bytes:
    model = tiny_model()
    helper.set_model_props(
        model,
        DetectorSpec(**{"network": "tiny", "class_names": ("a", "b"), "input_size": (16, 24)} | changes).to_metadata(),
    )  # type: ignore[arg-type]
    return bytes(model.SerializeToString())


def with_pixels(
    element: int = TensorProto.UINT8, shape: Sequence[str | int] = ("N", 16, 24, 3), **changes: object
) -> bytes:
    """A file whose graph takes 8-bit pixels; nothing of it is run."""
    model = onnx.load_from_string(with_spec(**changes))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("images_uint8", element, shape))
    return bytes(model.SerializeToString())


def with_entry(key: bytes, value: bytes) -> bytes:
    return bytes(tiny_model().SerializeToString()) + with_length(14, with_length(1, key) + with_length(2, value))


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(tiny_model(), path)
    assert read_exported(path, "a.onnx").spec == SPEC == describe_exported(path).spec == load_exported(path).spec
    assert read_exported(path, "a.onnx").metadata == SPEC.to_metadata()


WHOLE = bytes(tiny_model().SerializeToString())
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "too few classes": (lambda: with_spec(class_names=("a",)), "names 1 classes, but its graph tells 2 apart"),
    "too many classes": (lambda: with_spec(class_names=("a", "b", "c")), "names 3 classes, but its graph tells 2"),
    "another input": (lambda: with_spec(input_size=(24, 16)), "input is 3 x 24 x 16, but its graph takes 3 x 16 x 24"),
    "an unknown input": (lambda: with_entry(b"input_kind", b"int4"), "input_kind 'int4' is not float32 or uint8"),
    "an input that is no text in its place": (lambda: with_entry(b"input_kind", b""), "input_kind '' is not"),
    "pixels in words alone": (
        lambda: with_spec(input_kind="uint8"),
        "takes images_uint8 of uint8, but its graph takes images",
    ),
    "floats in words alone": (lambda: with_pixels(input_kind="float32"), "its graph takes images_uint8 of uint8"),
    "pixels of another type": (
        lambda: with_pixels(TensorProto.INT8, input_kind="uint8"),
        "images_uint8 of uint8, but its graph takes images_uint8 of type 3",
    ),
    "pixels in planes": (
        lambda: with_pixels(shape=["N", 3, 16, 24], input_kind="uint8"),
        "its input is 16 x 24 x 3, but its graph takes 3 x 16 x 24",
    ),
    "another batch": (lambda: with_spec(batch_size=4), "takes 4 images a call, but its graph takes any number"),
    "no batch": (lambda: with_entry(b"batch_size", b"0"), "batch_size 0 is no number from 1 to 1024"),
    "a huge batch": (lambda: with_entry(b"batch_size", b"9" * 30), "metadata cannot be used"),
    "a batch that is no number": (lambda: with_entry(b"batch_size", b"many"), "batch_size is 'many'"),
    "a batch that is true": (lambda: with_entry(b"batch_size", b"true"), "metadata cannot be used"),
    "unknown outputs": (lambda: with_entry(b"outputs", b"masks"), "outputs 'masks' are not detections or raw"),
    "an entry twice": (lambda: with_entry(b"std", b"[1, 1, 1]"), "two entries 'std'"),
    "a value that is no UTF-8": (lambda: with_entry(b"x", b"\xff"), "metadata cannot be used"),
    "a key that is no UTF-8": (lambda: with_entry(b"\xff", b"x"), "metadata cannot be used"),
    "nothing": (lambda: b"", "no entry"),
    "cut off": (lambda: WHOLE[:-3], "not a usable ONNX file"),
    "a number without end": (lambda: b"\x80" * 1000, "not a usable ONNX file"),
    "a length beyond the file": (lambda: WHOLE + b"\x72\xff\xff\xff\xff\x0f", "not a usable ONNX file"),
    "somebody else's": (lambda: bytes(onnx.ModelProto(graph=tiny_model().graph).SerializeToString()), "no entry"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_contradicts_itself_or_is_broken_is_one_sentence(
    content: Callable[[], bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content())
    with pytest.raises(ModelError, match=message) as caught:
        read_exported(path, "a.onnx")
    assert str(caught.value).isprintable()
    for read in (describe_exported, load_exported):
        with pytest.raises(ModelError):
            read(path)


@pytest.mark.parametrize("kind", ["uint8", "uint8-bgr"])
def test_a_file_of_pixels_is_read(kind: str) -> None:
    spec = read_exported(with_pixels(input_kind=kind), "a.onnx").spec
    assert (spec.input_kind, spec.input.tensor, spec.image_shape) == (kind, "images_uint8", (16, 24, 3))


def test_no_byte_that_changes_is_a_traceback(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(WHOLE)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        try:
            read_exported(bytes(data), "a.onnx")
        except ModelError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("location", ["w.bin", "none.bin", "../w.bin", "/etc/passwd", "link.bin", ".", "w\0"])
def test_weights_in_another_file_are_refused_wherever_they_lie(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(4 * 3 * 3 * 64))
    (tmp_path / "link.bin").symlink_to("/etc/passwd")
    model = tiny_model()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="keeps 'weights' in another file"):
        load_exported(path)
    try:
        describe_exported(path)  # ONNX Runtime takes what lies beside the file
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert location == "w.bin"
