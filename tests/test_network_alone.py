"""What `benchmarks/gpu_inference.py` times as the network alone is the same network, and answers like a detector."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _common import gpu_variants  # noqa: E402
from ssd_deploy.backends import BACKENDS  # noqa: E402

pytestmark = pytest.mark.slow  # exports a network

NETWORK = "ssd_300_mobilenet0.25_voc"


@pytest.fixture(scope="module")
def model(tmp_path_factory, shared_traces):
    return gpu_variants.export(NETWORK, "fp32", tmp_path_factory.mktemp("bare"))


@pytest.mark.parametrize("backend", ["torch:cpu", "onnxruntime:cpu"])
def test_the_network_alone_finds_one_box_over_and_over_whatever_it_sees(backend, model):
    file = model if backend.startswith("onnx") else None
    runner = gpu_variants._open_alone(
        gpu_variants.Job(network=NETWORK, precision="fp32", backend=backend, batch=2, model=file)
    )
    boxes, scores, labels = runner.run(np.random.default_rng(0).normal(size=(2, 3, 300, 300)).astype(np.float32))
    count = runner.spec.postprocess.max_detections
    assert boxes.shape == (2, count, 4) and (boxes == [0, 0, 1, 1]).all()
    assert (scores == 0.5).all() and scores.shape == (2, count)
    assert (labels == 0).all() and labels.dtype == np.int64


def test_the_bare_file_computes_the_raw_predictions_that_the_whole_one_does(model):
    images = np.random.default_rng(0).normal(size=(1, 3, 300, 300)).astype(np.float32)
    whole, bare = (
        BACKENDS["onnxruntime"].open(path, gpu_variants.RunOptions()).run_raw(images)
        for path in (model, gpu_variants._bare_file(model))
    )
    for expected, found in zip(whole, bare, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_every_variant_and_every_pair_is_a_choice_and_the_plain_backend_comes_first():
    found = gpu_variants.choices(BACKENDS["torch"], "cuda")
    assert found[0] == "torch:cuda" and len(found) == len(set(found))
    assert set(found) > {f"torch:cuda+{variant}" for variant in BACKENDS["torch"].variants}
    assert "torch:cuda+channels-last+cuda-graph" in found


def test_variants_that_exclude_each_other_are_no_choice():
    assert gpu_variants.choices(BACKENDS["openvino"], "cpu") == ["openvino", "openvino:bf16", "openvino:fp16"]
