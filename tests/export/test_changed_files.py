"""Files that take 8-bit pixels, a fixed batch, or give raw predictions, and the opset of all of them.

Held against the float file and against NumPy, in ONNX Runtime as anybody opens a file, without this project's runners.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.graph import load_exported
from export.onnx import export_onnx
from export.step import OnnxStep
from export.steps import STEPS
from ssd_train import build_network
from ssd_train.datasets.generated import draw_picture
from ssd_train.errors import BackendError, ModelError
from ssd_train.preprocess import network_input, preprocess
from ssd_train.spec import RAW_NAMES

NETWORK = "ssd_300_mobilenet0.25_custom"
# ImageNet's, once more, so that a file that computes with others does not pass.
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(build_network(NETWORK, "shapes"), tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """RGB pixels of the input's size, (2, 300, 300, 3)."""
    drawn = (draw_picture(0, index)[0] for index in range(2))
    return np.stack([cv2.resize(picture, (300, 300), interpolation=cv2.INTER_AREA) for picture in drawn])


def changed(file: Path, folder: Path, *steps: tuple[str, Any]) -> Path:
    for name, settings in steps:
        path = STEPS[name].apply(file, folder, settings).path
        assert path is not None
        file = path
    return file


def answer(file: Path, images: NDArray[Any], names: Sequence[str] | None = None) -> list[NDArray[Any]]:
    """What a file gives; `names` may be inner values."""
    model = onnx.load(file)
    known = {value.name: value for value in model.graph.value_info}
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(known[name] for name in names or () if name not in given)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    found: list[NDArray[Any]] = session.run(names, {taken.name: images})
    return found


def normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    images: NDArray[np.float32] = ((pixels / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images, np.float32)


@pytest.mark.parametrize("kind", ["uint8", "uint8-bgr"])
def test_a_file_of_pixels_finds_what_the_float_file_does(
    kind: str, float_file: Path, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    file = changed(float_file, tmp_path, (kind, None))
    pixels = pictures if kind == "uint8" else np.ascontiguousarray(pictures[..., ::-1])
    names = ["boxes", "scores", "labels", *RAW_NAMES]
    expected, got = answer(float_file, normalised(pictures), names), answer(file, pixels, names)
    assert (expected[2] >= 0).any(), "nothing was found, so nothing was compared"
    np.testing.assert_array_equal(got[2], expected[2])
    for name, value, reference in zip(names, got, expected, strict=True):
        spread = 300 if name == "boxes" else 1
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-6 * max(spread, reference.std()), err_msg=name)
    # The other order is another picture.
    assert np.abs(answer(file, pixels[..., ::-1], RAW_NAMES)[0] - expected[3]).max() > 0.1
    (taken,) = onnx.load(file).graph.input
    dims = [dim.dim_param or dim.dim_value for dim in taken.type.tensor_type.shape.dim]
    assert (taken.name, taken.type.tensor_type.elem_type) == ("images_uint8", onnx.TensorProto.UINT8)
    assert dims == ["N", 300, 300, 3]


@pytest.mark.parametrize("kind", ["uint8", "uint8-bgr"])
def test_pictures_are_prepared_as_the_file_takes_them(kind: str, float_file: Path) -> None:
    spec = dataclasses.replace(load_exported(float_file).spec, input_kind=kind)
    picture = draw_picture(0, 5)[0]
    resized = cv2.resize(picture, (300, 300), interpolation=cv2.INTER_AREA)
    assert picture.shape[0] > 300 < picture.shape[1], "another rule of resizing"
    prepared = preprocess(picture, spec)
    np.testing.assert_array_equal(prepared, resized if kind == "uint8" else resized[..., ::-1])
    assert prepared.flags.c_contiguous and prepared.dtype == np.uint8
    np.testing.assert_array_equal(network_input(prepared, spec), normalised(resized[None])[0])


def test_raw_predictions_are_decoded_by_what_the_metadata_says(
    float_file: Path, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    file = changed(float_file, tmp_path, ("uint8", None), ("raw", None))
    model = onnx.load(file)
    assert [value.name for value in model.graph.output] == list(RAW_NAMES)
    about = {entry.key: entry.value for entry in model.metadata_props}
    anchors, variances = np.array(json.loads(about["anchors"])), json.loads(about["variances"])
    logits, offsets = answer(file, pictures)
    # Each box that the float file found is some anchor's, decoded here by hand.
    boxes, scores, labels = answer(float_file, normalised(pictures))
    shares = np.exp(logits - logits.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    centres = anchors[:, :2] + offsets[..., :2] * variances[:2] * anchors[:, 2:]
    sizes = anchors[:, 2:] * np.exp(offsets[..., 2:] * variances[2:])
    decoded = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=2)
    found = labels >= 0
    assert found.any()
    for image, row in zip(*found.nonzero(), strict=True):
        nearest = np.abs(decoded[image] - boxes[image, row]).max(axis=1)
        fits = nearest < 1e-2
        likeness = np.abs(shares[image, fits, labels[image, row] + 1] - scores[image, row])
        assert fits.any() and likeness.min() < 1e-5


def test_a_fixed_batch_is_fixed_in_the_file_and_finds_the_same(
    float_file: Path, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    file = changed(float_file, tmp_path, ("batch", 2))
    assert file.name == f"{NETWORK}.fp32.batch2.onnx"
    for value, reference in zip(
        answer(file, normalised(pictures)), answer(float_file, normalised(pictures)), strict=True
    ):
        assert value.shape[0] == 2
        np.testing.assert_array_equal(value, reference)
    with pytest.raises(Exception, match="invalid dimensions|INVALID_ARGUMENT"):
        answer(file, normalised(pictures[:1]))
    sizes = [
        value.type.tensor_type.shape.dim for value in (*onnx.load(file).graph.input, *onnx.load(file).graph.output)
    ]
    assert all(dim.dim_value > 0 for shape in sizes for dim in shape)


def test_files_are_written_in_the_oldest_opset_that_holds_them(float_file: Path) -> None:
    model = onnx.load(float_file)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("opset", [18, 21])
def test_a_newer_opset_computes_the_same(
    opset: int, float_file: Path, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    file = changed(float_file, tmp_path, ("opset", opset))
    assert [each.version for each in onnx.load(file).opset_import] == [opset]
    for value, reference in zip(
        answer(file, normalised(pictures)), answer(float_file, normalised(pictures)), strict=True
    ):
        np.testing.assert_array_equal(value, reference)


@pytest.mark.parametrize(
    ("step", "settings", "words"),
    [
        ("opset", 16, "opset 16: expected 17 or more"),
        ("opset", None, "opset None: expected 17 or more"),
        ("opset", 9999, "cannot convert it to opset 9999"),
        ("batch", 0, "batch_size 0: expected 1 to 1024"),
        ("batch", 1025, "batch_size 1025: expected 1 to 1024"),
        ("batch", None, "batch_size None: expected 1 to 1024"),
    ],
)
def test_settings_out_of_range_are_one_sentence(
    step: str, settings: int | None, words: str, float_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        STEPS[step].apply(float_file, tmp_path, settings)
    assert caught.value.arguments and not list(tmp_path.iterdir())


def test_an_opset_that_onnx_runtime_does_not_know_is_one_sentence(
    float_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a number depends on the releases of both packages, so what ONNX Runtime would say is a fake.
    def refusing(*given: Any) -> None:
        raise ModelError("no")

    monkeypatch.setattr("export.opset.open_session", refusing)
    with pytest.raises(BackendError, match=r"ONNX Runtime .* does not run opset 18, .*; use a lower one"):
        STEPS["opset"].apply(float_file, tmp_path, 18)


def test_changes_are_made_once_and_before_a_cpu_s_own_graph(float_file: Path, tmp_path: Path) -> None:
    pixels = changed(float_file, tmp_path, ("uint8", None))
    for name in ("uint8", "uint8-bgr"):
        with pytest.raises(ModelError, match=f"is a result of uint8 already, which {name} does not take"):
            STEPS[name].apply(pixels, tmp_path)
    of_cpu = STEPS["cpu"]
    assert isinstance(of_cpu, OnnxStep) and {"uint8", "uint8-bgr", "raw", "batch", "opset"} <= {*of_cpu.follows}


def test_a_changed_file_keeps_everything_else_that_it_says(float_file: Path, tmp_path: Path) -> None:
    before = load_exported(float_file)
    after = load_exported(changed(float_file, tmp_path, ("uint8", None), ("raw", None), ("batch", 1), ("cpu", None)))
    assert after.spec == dataclasses.replace(before.spec, input_kind="uint8", outputs="raw", batch_size=1)
    assert after.spec.file_stem == f"{NETWORK}.fp32.uint8.raw.batch1"
    assert before.metadata.items() <= after.metadata.items()
    # What is as usual leaves no trace, so that files are as they were before there was a choice.
    assert not {"input_kind", "outputs", "batch_size", "opset"} & before.metadata.keys()
