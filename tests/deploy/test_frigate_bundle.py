"""Frigate's code would take the file: its contract is told again here, and the boxes are those of our own detector."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from numpy.typing import NDArray
from small_onnx import CLASSES, write_small
from tiny_data import Image, blocks

from ssd_deploy import load_detector
from ssd_deploy.bundles import BUNDLES
from ssd_deploy.bundles.folder import write_bundle
from ssd_train.errors import ModelError

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def run_onnxruntime(path: Path) -> Run:
    """As Frigate's detector `onnx`: the first input by its name, the first of all outputs."""
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda frame: session.run(None, {name: frame})[0]


def run_openvino(path: Path) -> Run:
    """As its detector `openvino`: one input that the frame is copied into, and one output of rows of 7."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    compiled = openvino.Core().compile_model(path, "CPU")
    assert len(compiled.inputs) == len(compiled.outputs) == 1
    assert compiled.outputs[0].partial_shape[-1] == 7
    tensor = openvino.Tensor(compiled.inputs[0].get_element_type(), compiled.inputs[0].get_shape())
    request = compiled.create_infer_request()

    def run(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        np.copyto(tensor.data, frame)
        request.infer(tensor)
        return np.array(request.get_output_tensor(0).data)

    return run


def frigate(run: Run, settings: dict[str, Any], frame: Image, threshold: float) -> Iterator[tuple[str, float, Any]]:
    """What Frigate makes of rows: the first 20, to a class below 0, and of these to a score below the threshold."""
    assert settings["input_tensor"] == "nhwc" and settings["input_dtype"] == "int"
    assert settings["input_pixel_format"] == "rgb" and settings["model_type"] == "yolonas"
    rows = run(frame[None])
    detections = np.zeros((20, 6), np.float32)
    for number, (_, x_min, y_min, x_max, y_max, confidence, label) in enumerate(rows):
        if number == 20 or label < 0:
            break
        width, height = settings["width"], settings["height"]
        detections[number] = [label, confidence, y_min / height, x_min / width, y_max / height, x_max / width]
    for label, score, *box in detections:
        if score < threshold:
            break
        yield settings["names"][int(label)], float(score), box


def settings_of(folder: Path, name: str) -> dict[str, Any]:
    """Return the model's settings, with Frigate's reading of the classes."""
    settings = yaml.safe_load((folder / f"{name}.frigate.yml").read_text(encoding="utf-8"))["model"]
    assert settings["path"] == f"/config/{name}.onnx"
    assert settings["labelmap_path"] == f"/config/{name}.labels.txt"
    lines = (folder / f"{name}.labels.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ", maxsplit=1) for line in lines]
    return settings | {"names": {int(number): text.strip() for number, text in pairs}}


@pytest.mark.parametrize("opened", [run_onnxruntime, run_openvino])
def test_frigate_finds_what_the_detector_finds(opened: Callable[[Path], Run], tmp_path: Path) -> None:
    model = write_small(tmp_path / "cells.onnx")
    write_bundle(BUNDLES["frigate"], model, tmp_path / "config")
    frame = blocks(24, 32, 8, 3)
    settings = settings_of(tmp_path / "config", "cells")
    found = list(frigate(opened(tmp_path / "config" / "cells.onnx"), settings, frame, 0.4))
    expected = [one for one in load_detector(model).detect(frame) if one.score >= 0.4]
    assert [name for name, _, _ in found] == [one.class_name for one in expected] == ["dust", "cell", "bacterium"]
    for (_, score, (top, left, bottom, right)), one in zip(found, expected, strict=True):
        assert score == pytest.approx(one.score, abs=1e-6)
        assert (left * 32, top * 24, right * 32, bottom * 24) == pytest.approx(tuple(one.box), abs=1e-4)


def test_a_real_network_finds_the_same_within_the_graph(
    model_path: Path, pictures: list[Image], tmp_path: Path
) -> None:
    """Its outputs of one image, too, have shapes that are known before it runs."""
    import cv2

    write_bundle(BUNDLES["frigate"], model_path, tmp_path)
    run = run_onnxruntime(tmp_path / model_path.name)
    frame = cv2.resize(pictures[2], (300, 300))
    rows = run(frame[None])
    expected = load_detector(model_path).detect(frame)
    assert rows.shape == (100, 7)
    assert 0 < len(expected) < 100
    assert (rows[len(expected) :, 6] == -1).all()
    np.testing.assert_allclose(rows[: len(expected), 5], expected.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(rows[: len(expected), 1:5], expected.boxes, rtol=0, atol=1e-2)
    np.testing.assert_array_equal(rows[: len(expected), 6], expected.labels)
    onnx.checker.check_model(onnx.load(tmp_path / model_path.name), full_check=True)


def test_a_class_that_begins_with_a_number_keeps_its_name(tmp_path: Path) -> None:
    model = write_small(tmp_path / "cells.onnx", entries={"class_names": '["3 wheeler", "car", "bus"]'})
    write_bundle(BUNDLES["frigate"], model, tmp_path / "config")
    assert settings_of(tmp_path / "config", "cells")["names"] == {0: "3 wheeler", 1: "car", 2: "bus"}
    track = yaml.safe_load((tmp_path / "config" / "cells.frigate.yml").read_text())["objects"]["track"]
    assert track == ["3 wheeler", "car", "bus"]
    assert len(CLASSES) == 3


def test_a_file_of_one_image_is_taken_and_one_of_more_is_not(tmp_path: Path) -> None:
    write_bundle(BUNDLES["frigate"], write_small(tmp_path / "one.onnx", batch=1), tmp_path / "out")
    assert run_onnxruntime(tmp_path / "out" / "one.onnx")(np.zeros((1, 24, 32, 3), np.uint8)).shape == (5, 7)
    with pytest.raises(ModelError, match="takes 2 images a call"):
        write_bundle(BUNDLES["frigate"], write_small(tmp_path / "two.onnx", batch=2), tmp_path / "out")
    with pytest.raises(ModelError, match="is an engine"):
        write_bundle(BUNDLES["frigate"], write_small(tmp_path / "a.engine"), tmp_path / "out")
