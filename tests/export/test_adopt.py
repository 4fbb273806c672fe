"""Somebody else's ONNX file: what its raw outputs mean, held against itself in plain ONNX Runtime and NumPy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_onnx import COLUMNS, COUNT, HEIGHT, WIDTH, anchors, write_foreign
from numpy.typing import NDArray
from onnx import helper

from export.adopt import OWN_VARIANCES, adopt_onnx
from export.adopt_options import AdoptOptions
from export.anchor_file import read_anchors
from export.foreign_graph import read_foreign
from export.foreign_outputs import in_our_form, meaning_of
from export.graph import ExportedGraph
from export.step import OnnxStep
from export.steps import STEPS
from ssd_train.errors import ModelError
from ssd_train.spec import RAW_NAMES, DetectorSpec

USUAL: dict[str, Any] = {"scores": "cls", "boxes": "reg", "mean": "0.5", "std": "0.5"}


def run(model: Path | bytes, images: NDArray[np.float32], names: list[str]) -> list[Any]:
    """Run a graph in plain ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(names, {session.get_inputs()[0].name: images}))


def noise(count: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(count, 3, HEIGHT, WIDTH)).astype(np.float32)


def brought(path: Path, images: NDArray[np.float32], **options: Any) -> list[Any]:
    """Return `cls_logits` and `box_offsets` of a file as this project has them."""
    asked = AdoptOptions(**USUAL | options)
    graph = read_foreign(path, asked)
    model = in_our_form(graph, meaning_of(graph, asked, OWN_VARIANCES), asked)
    onnx.checker.check_model(model, full_check=True)
    return run(model.SerializeToString(), images, list(RAW_NAMES))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        brought(path, noise(), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def anchor_file(tmp_path: Path) -> Path:
    np.save(tmp_path / "anchors.npy", anchors())
    return tmp_path / "anchors.npy"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_foreign(tmp_path / "theirs.onnx")


def test_offsets_are_scaled_to_our_variances(plain: Path, anchor_file: Path) -> None:
    logits, offsets = brought(plain, noise(), anchors=anchor_file, variances="0.05,0.05,0.3,0.3")
    theirs = run(plain, noise(), ["cls", "reg"])
    np.testing.assert_array_equal(logits, theirs[0])
    np.testing.assert_allclose(offsets, theirs[1] * [0.5, 0.5, 1.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("order", ["xyxy", "cxcywh", "yxyx"])
@pytest.mark.parametrize("units", ["pixels", "sides"])
def test_decoded_boxes_become_corners_in_pixels(plain: Path, order: str, units: str) -> None:
    _, boxes = brought(plain, noise(), box_format=order, box_units=units)
    a, b, c, d = np.moveaxis(run(plain, noise(), ["reg"])[0].astype(np.float64), 2, 0)
    expected = {
        "xyxy": (a, b, c, d),
        "yxyx": (b, a, d, c),
        "cxcywh": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    }[order]
    scale = [WIDTH, HEIGHT, WIDTH, HEIGHT] if units == "sides" else [1, 1, 1, 1]
    np.testing.assert_allclose(boxes, np.stack(expected, axis=2) * scale, rtol=1e-5, atol=1e-4)


def test_units_are_told_although_some_answers_to_noise_are_far_out(tmp_path: Path) -> None:
    behind = [
        helper.make_node("Exp", ["reg"], ["shares"]),
        helper.make_node("Constant", [], ["side"], value=onnx.numpy_helper.from_array(np.array(30, np.float32))),
        helper.make_node("Mul", ["shares", "side"], ["pixels"]),
    ]
    path = write_foreign(tmp_path / "theirs.onnx", behind=behind)
    (shares,) = run(path, noise(), ["reg"])
    assert np.exp(shares).max() > 3
    for name, factor in (("shares", [WIDTH, HEIGHT, WIDTH, HEIGHT]), ("pixels", [30] * 4)):
        _, boxes = brought(path, noise(), boxes=name)
        np.testing.assert_allclose(boxes, np.exp(shares) * factor, rtol=1e-5)


def test_probabilities_are_told_and_come_back_from_a_softmax(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "theirs.onnx", scores="Softmax")
    logits, _ = brought(path, noise(), box_units="sides")
    back = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(back, run(path, noise(), ["cls"])[0], atol=1e-6)
    # They are no logits: a softmax of them would be almost even.
    assert logits.min() < -5


def test_a_sigmoid_is_refused(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "theirs.onnx", scores="Sigmoid")
    assert "do not add up to 1, as a sigmoid" in refused(path, box_units="sides")
    # What is in front of it can be named.
    brought(path, noise(), scores="logits", box_units="sides")


def test_background_in_the_last_column_comes_first(plain: Path) -> None:
    logits, _ = brought(plain, noise(), background="last", box_units="sides")
    np.testing.assert_array_equal(logits, run(plain, noise(), ["cls"])[0][..., [2, 0, 1]])


def test_bgr_and_channels_last(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "theirs.onnx", channels_last=True)
    logits, _ = brought(path, noise(), channel_order="bgr", box_units="sides")
    theirs = run(path, np.ascontiguousarray(noise()[:, ::-1].transpose(0, 2, 3, 1)), ["cls"])[0]
    np.testing.assert_allclose(logits, theirs, rtol=1e-5, atol=1e-5)


def test_a_batch_that_is_written_into_shapes_is_freed(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "theirs.onnx", batch=1, shape_batch=1)
    logits, _ = brought(path, noise(3), box_units="sides")
    apart = [run(path, image[None], ["cls"])[0] for image in noise(3)]
    np.testing.assert_allclose(logits, np.concatenate(apart), rtol=1e-5, atol=1e-5)


def test_a_batch_that_cannot_be_freed_stays(tmp_path: Path) -> None:
    # Scores that depend on the other images of a call.
    mixed = helper.make_node("CumSum", ["logits", "zero"], ["sums"])
    zero = helper.make_node("Constant", [], ["zero"], value=onnx.numpy_helper.from_array(np.array(0)))
    path = write_foreign(tmp_path / "theirs.onnx", batch=1, shape_batch=1, behind=[zero, mixed])
    graph = read_foreign(path, AdoptOptions(**USUAL | {"scores": "sums"}))
    assert graph.batch_size == 1
    logits, _ = brought(path, noise(1), scores="sums", box_units="sides")
    np.testing.assert_array_equal(logits, run(path, noise(1), ["cls"])[0])


def test_an_old_opset_is_raised(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "theirs.onnx", opset=11)
    assert read_foreign(path, AdoptOptions(**USUAL)).model.opset_import[0].version == 17
    np.testing.assert_array_equal(brought(path, noise(), box_units="sides")[0], run(path, noise(), ["cls"])[0])


def test_what_lies_in_a_file_beside_it_comes_along(plain: Path) -> None:
    expected = run(plain, noise(), ["cls"])[0]
    onnx.save(onnx.load(plain), plain, save_as_external_data=True, location="weights.bin", size_threshold=0)
    np.testing.assert_array_equal(brought(plain, noise(), box_units="sides")[0], expected)


def test_their_own_nms_is_cut_off_and_nothing_behind_it_is_taken(tmp_path: Path) -> None:
    behind = [
        helper.make_node("Transpose", ["cls"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", ["reg", "turned"], ["chosen"]),
        helper.make_node("Cast", ["chosen"], ["late"], to=onnx.TensorProto.FLOAT),
    ]
    path = write_foreign(tmp_path / "theirs.onnx", behind=behind, outputs=["late"])
    graph = read_foreign(path, AdoptOptions(**USUAL))
    assert "NonMaxSuppression" not in {node.op_type for node in graph.model.graph.node}
    assert "come behind NonMaxSuppression" in refused(path, scores="late")


def test_outputs_are_found_where_one_pair_can_be_meant_and_listed_where_not(tmp_path: Path, plain: Path) -> None:
    graph = read_foreign(plain, AdoptOptions(mean="0.5", std="0.5"))
    assert (graph.scores, graph.boxes) == ("cls", "reg")
    # With three classes and a background both have four columns.
    path = write_foreign(tmp_path / "four.onnx", columns=4)
    text = refused(path, scores=None, boxes=None)
    assert "'cls' (? x 48 x 4)" in text and "'reg' (? x 48 x 4)" in text
    named = write_foreign(
        tmp_path / "named.onnx", columns=4, outputs=["boxes", "scores"],
        behind=[helper.make_node("Relu", ["reg"], ["boxes"]), helper.make_node("Relu", ["cls"], ["scores"])],
    )  # fmt: skip
    graph = read_foreign(named, AdoptOptions(mean="0.5", std="0.5"))
    assert (graph.scores, graph.boxes) == ("scores", "boxes")
    assert "has no value 'nothing'" in refused(plain, scores="nothing")
    assert "cannot be scores and boxes" in refused(path, boxes="cls")


def test_files_that_are_no_detectors_are_one_sentence(tmp_path: Path, plain: Path) -> None:
    whole = plain.read_bytes()
    for number, content in enumerate((b"", b"onnx?", whole[: len(whole) // 2], whole[:-9])):
        broken = tmp_path / f"{number}.onnx"
        broken.write_bytes(content)
        assert str(broken) in refused(broken)
    assert "cannot be read" in refused(tmp_path / "missing.onnx")
    model = onnx.load(plain)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(model, tmp_path / "pixels.onnx")
    assert "is uint8 of ? x 3 x 32 x 48" in refused(tmp_path / "pixels.onnx")
    model = onnx.load(plain)
    model.graph.node[-1].domain = "their.own"
    model.opset_import.append(helper.make_opsetid("their.own", 1))
    onnx.save(model, tmp_path / "own.onnx")
    assert "of 'their.own', which is none of ONNX's" in refused(tmp_path / "own.onnx")
    model = onnx.load(plain)
    model.graph.input[0].type.tensor_type.elem_type = 56
    onnx.save(model, tmp_path / "kind.onnx")
    assert "kind.onnx" in refused(tmp_path / "kind.onnx")
    assert "sigmoid are not supported" in refused(write_foreign(tmp_path / "one.onnx", columns=1))


def test_a_producer_that_is_no_text_is_printable(plain: Path) -> None:
    whole = plain.read_bytes()
    plain.write_bytes(whole.replace(b"their\x1b[31mtool", b"their\xff\x1b31mtool"))
    producer = read_foreign(plain, AdoptOptions(**USUAL)).producer
    assert producer.startswith("their") and producer.isprintable()


def test_an_open_input_size_has_to_be_named(tmp_path: Path, plain: Path) -> None:
    path = write_foreign(tmp_path / "open.onnx", side="H")
    assert "leaves its input's size open" in refused(path)
    assert brought(path, noise(), input_size=f"{WIDTH}x{HEIGHT}", box_units="sides")[0].shape == (2, COUNT, COLUMNS)
    assert "has 48 x 32 pixels, not 64 x 64" in refused(plain, input_size="64x64")


def test_anchor_files(tmp_path: Path) -> None:
    rows = anchors()
    np.save(tmp_path / "a.npy", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows.tolist()))
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(str, row)) for row in rows.tolist()))
    for name in ("a.npy", "a.json", "a.csv"):
        np.testing.assert_allclose(read_anchors(tmp_path / name), rows)
    np.save(tmp_path / "b.npy", np.zeros((3, 5)))
    np.save(tmp_path / "c.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "d.csv").write_text("cx,cy,w,h\n1,2,3,4\n")
    (tmp_path / "e.csv").write_text("1,2,3,nan\n")
    for name in ("b.npy", "c.npy", "d.csv", "e.csv", "none.npy"):
        with pytest.raises(ModelError, match="A rows of four numbers"):
            read_anchors(tmp_path / name)


def test_anchors_in_corners_or_shares_of_the_input_are_the_same(plain: Path, anchor_file: Path, tmp_path: Path) -> None:
    rows = anchors().astype(np.float64)
    corners = np.concatenate([rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2], axis=1)
    np.save(tmp_path / "corners.npy", corners / [WIDTH, HEIGHT, WIDTH, HEIGHT])
    asked = AdoptOptions(**USUAL, anchors=tmp_path / "corners.npy", anchor_format="xyxy")
    found = meaning_of(read_foreign(plain, asked), asked, OWN_VARIANCES).anchors
    assert found is not None
    np.testing.assert_allclose(found, rows, rtol=1e-6)
    np.save(tmp_path / "few.npy", rows[:-1])
    assert f"has {COUNT - 1} anchors, but the network has {COUNT}" in refused(plain, anchors=tmp_path / "few.npy")
    assert "without area" in refused(plain, anchors=anchor_file, anchor_format="xyxy")


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({"mean": "127,127,127", "std": "128"}, (127 / 255,) * 3, (128 / 255,) * 3),
        ({"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        # What divides by one pixel value of 255 has to be said.
        ({"mean": "0", "std": "1", "pixels": "255"}, (0, 0, 0), (1 / 255,) * 3),
        ({"mean": "104,117,123", "std": "1", "channel_order": "bgr"},
         (123 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3),
    ],
)  # fmt: skip
def test_statistics_are_rgb_of_0_to_1(options: dict[str, str], mean: Any, std: Any) -> None:
    found = AdoptOptions(**options).statistics()
    np.testing.assert_allclose(found, (mean, std), rtol=1e-9)


def test_options_that_make_no_sense() -> None:
    for options in (
        {"mean": "0.5"},
        {"mean": "0.5", "std": "0"},
        {"mean": "a", "std": "1"},
        {"mean": "1,2", "std": "1"},
    ):
        with pytest.raises(ModelError):
            AdoptOptions(**options).statistics()  # type: ignore[arg-type]
    for variances in ("0.1", "0.1,0", "x,y"):
        with pytest.raises(ModelError, match="variances"):
            AdoptOptions(variances=variances).four_variances()


def test_a_wrong_number_of_names_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tells 2 classes and a background apart, but 3 names were given"):
        adopt_onnx(plain, tmp_path / "out", ["a", "b", "c"], AdoptOptions(**USUAL, box_units="sides"))
    assert not (tmp_path / "out").exists()


def test_a_step_that_needs_any_batch_says_that_an_adopted_file_has_one(tmp_path: Path) -> None:
    spec = DetectorSpec(
        network="theirs", class_names=("a", "b"), input_size=(HEIGHT, WIDTH), batch_size=1, adopted_from="a tool"
    )
    graph = ExportedGraph(
        path=tmp_path / "theirs.onnx", model=onnx.ModelProto(), metadata=spec.to_metadata(), spec=spec
    )
    step = STEPS["int8"]
    assert isinstance(step, OnnxStep)
    with pytest.raises(
        ModelError,
        match="takes a fixed number of images a call .1., which int8 does not take; .*dynamic batch, and adopt that$",
    ):
        step._check_takes(graph)
