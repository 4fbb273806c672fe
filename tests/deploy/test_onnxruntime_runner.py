"""What ONNX Runtime's runner promises beside the contract of all backends: files that change, devices with a number."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from ssd_deploy.backends import BACKENDS, RunOptions, open_model
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner, open_runner
from ssd_deploy.backends.onnxruntime_options import provider_list
from ssd_train.errors import BackendError, ModelError

IMAGES = np.random.default_rng(0).normal(size=(1, 3, 300, 300)).astype(np.float32)


@pytest.fixture
def model(model_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(model_path, tmp_path / "model.onnx"))


def other_weights(model: Path) -> bytes:
    """The file of a network that differs in biases of its predictors alone, and of the same size."""
    graph = onnx.load(model)
    for constant in graph.graph.initializer:
        if "predictor.bias" in constant.name:
            constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) + np.float32(3), constant.name))
    data: bytes = graph.SerializeToString()
    assert len(data) == model.stat().st_size and data != model.read_bytes()
    return data


def raw_of(path: Path) -> list[NDArray[np.float32]]:
    return list(OnnxRuntimeRunner(path).run_raw(IMAGES))


@pytest.mark.parametrize("in_place", [False, True])
def test_raw_predictions_are_never_those_of_a_file_that_came_later(model: Path, in_place: bool) -> None:
    runner, before = OnnxRuntimeRunner(model), model.stat()
    detections = runner.run(IMAGES)
    later = model if in_place else model.with_name("later.onnx")
    later.write_bytes(other_weights(model))
    # As a copy that keeps the times would have it.
    os.utime(later, ns=(before.st_atime_ns, before.st_mtime_ns))
    later.replace(model)
    with pytest.raises(ModelError, match=r"model\.onnx: was replaced or removed since it was opened.*open it again"):
        runner.run_raw(IMAGES)
    for got, expected in zip(runner.run(IMAGES), detections, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_raw_predictions_of_a_file_that_is_gone_are_refused(model: Path) -> None:
    runner = OnnxRuntimeRunner(model)
    model.unlink()
    with pytest.raises(ModelError, match="was replaced or removed"):
        runner.run_raw(IMAGES)


def test_a_runner_that_was_opened_for_raw_predictions_has_those_of_its_own_file(model: Path) -> None:
    expected = raw_of(model)
    runner = open_runner(model, RunOptions(with_raw=True))
    model.write_bytes(other_weights(model))
    for ours, before in zip(runner.run_raw(IMAGES), expected, strict=True):
        np.testing.assert_array_equal(ours, before)
    assert not np.array_equal(raw_of(model)[0], expected[0]), "the other file gives the same logits"


@pytest.mark.parametrize("device", ["cpu:0", "cuda:", "cuda:x", "cuda:-1", "rocm", "cpu,cuda", ""])
def test_a_device_that_does_not_exist_is_named(model_path: Path, device: str) -> None:
    with pytest.raises(BackendError, match=f"device '{device}' does not exist; choose cpu, cuda, tensorrt") as caught:
        open_runner(model_path, RunOptions(device=device))
    assert caught.value.arguments == ("device",)


def test_a_gpus_number_becomes_its_device_id(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    assert provider_list("cpu", tensor_cores=False) == ["CPUExecutionProvider"]
    assert provider_list("cuda", tensor_cores=False) == [("CUDAExecutionProvider", {"use_tf32": "0"})]
    second = ("CUDAExecutionProvider", {"use_tf32": "1", "device_id": "1"})
    assert provider_list("cuda:1", tensor_cores=True) == [second]
    assert provider_list("tensorrt:1", tensor_cores=True) == [("TensorrtExecutionProvider", {"device_id": "1"}), second]


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
def test_auto_runs_on_the_cpu_where_there_is_no_gpu(model_path: Path) -> None:
    runner = open_model(BACKENDS["onnxruntime"], model_path, RunOptions(device="auto"))
    assert runner.name == "onnxruntime (CPU)" and runner.run(IMAGES).scores.shape == (1, 100)


def test_auto_tells_what_is_wrong_with_a_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"model\.onnx: is not a usable ONNX file"):
        open_model(BACKENDS["onnxruntime"], path, RunOptions(device="auto"))
