"""The exported file: what it promises, read back with onnx and run with ONNX Runtime."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export import onnx as onnx_export
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from export.steps import STEPS
from ssd_train import build_network
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.errors import ModelError, SpecError
from ssd_train.files import sha256_of_file
from ssd_train.networks.detector import Detector
from ssd_train.networks.postprocess import Postprocess
from ssd_train.spec import MAX_TOP_K, DetectorSpec, PostprocessSettings

NAME = "ssd_300_mobilenet0.25_voc"
SETTINGS = PostprocessSettings(score_threshold=0.3, nms_iou_threshold=0.6, pre_nms_top_k=50, max_detections=7)


@pytest.fixture(scope="module")
def network():
    return build_network(NAME, weights="random")


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    return export_onnx(network, tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def model(path):
    return onnx.load(path)


def shapes(values):
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
    }


def run(path, images, names=("boxes", "scores", "labels")):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(list(names), {"images": images})


def images_of(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 3, 300, 300)).astype(np.float32)


def test_the_file_is_named_after_network_and_precision(path):
    assert path.name == f"{NAME}.fp32.onnx"


def test_inputs_and_outputs_are_static_after_the_batch(model):
    assert shapes(model.graph.input) == {"images": ["N", 3, 300, 300]}
    assert shapes(model.graph.output) == {"boxes": ["N", 100, 4], "scores": ["N", 100], "labels": ["N", 100]}


def test_every_inner_value_is_static_after_the_batch(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    unknown = {
        name: shape
        for name, shape in shapes(inferred.graph.value_info).items()
        if any(size == 0 or (isinstance(size, str) and size != "N") for size in shape)
    }
    assert len(inferred.graph.value_info) > 100
    assert not unknown


def test_only_standard_operators_that_engines_implement_are_used(model):
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
    used = {node.op_type for node in model.graph.node}
    assert not used & {"NonMaxSuppression", "NonZero", "Loop", "If", "Scan", "Unique", "Compress"}
    assert not model.functions


def test_no_top_k_is_above_tensorrts_limit(model):
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    ks = [int(constants[node.input[1]].item()) for node in model.graph.node if node.op_type == "TopK"]
    assert len(ks) == 4
    assert max(ks) <= MAX_TOP_K == 3840


def test_the_checker_passes_with_full_shape_inference(path):
    onnx.checker.check_model(str(path), full_check=True)


def test_the_metadata_describes_the_detector_completely(network, model):
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    spec = DetectorSpec.from_metadata(metadata, "the file")
    assert spec.network == NAME and spec.class_names == network.config.class_names
    assert spec.input_size == (300, 300) and spec.mean == (0.485, 0.456, 0.406) and spec.std == (0.229, 0.224, 0.225)
    assert spec.postprocess == PostprocessSettings() and spec.precision == "fp32"
    assert spec.weights == "random, seed 0" and spec.weights_sha256 == network.spec.weights_sha256
    assert spec.versions["torch"] == torch.__version__ and spec.versions["onnx"] == onnx.__version__
    assert json.loads(metadata["class_names"])[14] == "person" and metadata["score_threshold"] == "0.01"


def test_no_trace_of_the_machine_is_left_in_the_file(path):
    content = path.read_bytes()
    assert b"site-packages" not in content and b'File "' not in content and b".py" not in content


MADE_ELSEWHERE = """
import sys
from pathlib import Path
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from export.steps import STEPS
from ssd_train import build_network

name, out, pictures = sys.argv[1], *map(Path, sys.argv[2:])
path = export_onnx(build_network(name, weights="random:0"), out)
path = STEPS["int8"].apply(path, out, QuantizeOptions(calibration_data=pictures)).path
STEPS["cpu"].apply(path, out)
"""


@pytest.mark.slow
def test_another_process_and_folder_give_the_same_bytes(path, tmp_path):
    pictures = write_shapes(tmp_path / "data", train=2, val=1, seed=1) / "JPEGImages"
    subprocess.run(
        [sys.executable, "-c", MADE_ELSEWHERE, NAME, str(tmp_path / "elsewhere"), str(pictures)],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        check=True,
    )
    int8 = STEPS["int8"].apply(path, tmp_path / "here", QuantizeOptions(calibration_data=pictures)).path
    made = [path, int8, STEPS["cpu"].apply(int8, tmp_path / "here").path]
    for each in made:
        assert sha256_of_file(tmp_path / "elsewhere" / each.name) == sha256_of_file(each)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_file_gives_pytorchs_detections_at_any_batch_size(network, path, batch):
    images = images_of(batch)
    boxes, scores, labels = run(path, images)
    with torch.inference_mode():
        raw = network(torch.from_numpy(images))
        expected = Postprocess(PostprocessSettings())(*raw, network.anchors)
    assert (boxes.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int64)
    np.testing.assert_array_equal(labels, expected[2].numpy())
    np.testing.assert_allclose(scores, expected[1].numpy(), atol=1e-5)
    np.testing.assert_allclose(boxes, expected[0].numpy(), atol=1e-2)
    assert (labels >= 0).any()


# Two backbones whose last level is another than in the table.
@pytest.mark.parametrize("backbone", ["vgg16_atrous", "resnet34_v1b"])
def test_a_rectangles_file_gives_pytorchs_detections(backbone, tmp_path):
    network = build_network(f"ssd_160x96_{backbone}_custom", weights="random", classes=["a", "b", "c"])
    path = export_onnx(network, tmp_path)
    assert shapes(onnx.load(path, load_external_data=False).graph.input) == {"images": ["N", 3, 96, 160]}
    images = np.random.default_rng(2).normal(size=(2, 3, 96, 160)).astype(np.float32)
    found = np.dstack([value.reshape(2, 100, -1) for value in run(path, images)])
    with torch.inference_mode():
        raw = network(torch.from_numpy(images))
        expected = Postprocess(PostprocessSettings())(*raw, network.anchors)
    expected = np.dstack([value.numpy().reshape(2, 100, -1) for value in expected])
    # Box, score and label of each row beside every other's: scores that are equal but for rounding may change places.
    near = (np.abs(found[:, :, None] - expected[:, None]) < [1e-2, 1e-2, 1e-2, 1e-2, 1e-5, 0.5]).all(axis=3)
    assert near.any(axis=1).all() and near.any(axis=2).all()
    assert (found[..., 5] >= 0).sum() > 50


def test_each_image_of_a_batch_is_treated_alone(path):
    images = images_of(3)
    together = run(path, images)
    for row in range(3):
        for all_rows, alone in zip(together, run(path, images[row : row + 1]), strict=True):
            np.testing.assert_allclose(all_rows[row], alone[0], atol=1e-3)


def test_thresholds_become_part_of_the_graph_and_of_its_description(tmp_path):
    # A test of the command line exports the same, so that it is traced once.
    network = build_network("ssd_300_mobilenet0.25_custom", weights="random:5", classes=["RBC", "WBC", "Platelets"])
    path = export_onnx(network, tmp_path / "new" / "folder", settings=SETTINGS)
    images = images_of(2) * np.float32(1.5)
    boxes, scores, labels = run(path, images)
    assert boxes.shape == (2, 7, 4) and scores.shape == labels.shape == (2, 7)
    assert scores[labels >= 0].min() > 0.3
    with torch.inference_mode():
        expected = Postprocess(SETTINGS)(*network(torch.from_numpy(images)), network.anchors)
    np.testing.assert_array_equal(labels, expected[2].numpy())
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert DetectorSpec.from_metadata(metadata, "the file").postprocess == SETTINGS


@pytest.mark.parametrize(
    "wrong",
    [
        {"score_threshold": -0.1},
        {"score_threshold": 1.0},
        {"score_threshold": float("nan")},
        {"nms_iou_threshold": 0.0},
        {"nms_iou_threshold": 1.0},
        {"pre_nms_top_k": 0},
        {"pre_nms_top_k": 3841},
        {"max_detections": 0},
        {"max_detections": 401},
    ],
)
def test_thresholds_outside_their_range_are_refused(wrong):
    with pytest.raises(SpecError):
        PostprocessSettings(**wrong)


def test_a_graph_that_computes_something_else_is_not_written(network, tmp_path, monkeypatch):
    # As a trace would be that missed something: that of the network as it was.
    traced, before = onnx_export._traced, Detector(network, PostprocessSettings()).eval()
    monkeypatch.setattr(onnx_export, "_traced", lambda detector, spec: traced(before, spec))
    changed = copy.deepcopy(network)
    with torch.no_grad():
        changed.class_predictors[0].predictor.bias += 0.1
    path = tmp_path / f"{NAME}.fp32.onnx"
    path.write_bytes(b"what was here before")
    with pytest.raises(ModelError, match="gives other cls_logits than PyTorch.*nothing was written"):
        export_onnx(changed, tmp_path)
    assert path.read_bytes() == b"what was here before"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_vggs_rounded_up_maps_survive_the_export(vgg):
    # 300 -> 150 -> 75 -> 38: the third pooling rounds up, which exporters have got wrong.
    model = onnx.load(vgg)
    values = shapes(model.graph.value_info)
    assert values["cls_logits"] == ["N", 8732, 21] and values["box_offsets"] == ["N", 8732, 4]
    pools = [node for node in model.graph.node if node.op_type == "MaxPool"]
    inferred = shapes(onnx.shape_inference.infer_shapes(model).graph.value_info)
    assert [inferred[pool.output[0]][2:] for pool in pools] == [[150, 150], [75, 75], [38, 38], [19, 19], [19, 19]]
