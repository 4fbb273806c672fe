"""Files that ONNX Runtime rewrote for this CPU: the same detections, and refused where they would be wrong."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export.engine.build import build_engine
from export.engine.file import BuildOptions
from export.engine.flavours import TENSORRT_RTX
from export.file_metadata import CPU_GRAPH_KEY, check_runs_here, this_cpu
from export.onnx import export_onnx
from export.steps import STEPS
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_train import build_network
from ssd_train.errors import ModelError

NETWORK = "ssd_300_mobilenet0.25_custom"
HERE = this_cpu(onnxruntime.__version__)


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(build_network(NETWORK, "shapes"), tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def rewritten(float_file: Path) -> Path:
    result = STEPS["cpu"].apply(float_file, float_file.parent)
    assert result.path is not None
    assert (
        result.checked == f"boxes, scores, labels equal to the last bit beside {float_file.name} on 2 images of noise"
    )
    return result.path


def made_for(rewritten: Path, folder: Path, **changes: str) -> Path:
    """A copy that says it was made elsewhere."""
    model = onnx.load(rewritten)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    metadata[CPU_GRAPH_KEY] = json.dumps(HERE | changes)
    onnx.helper.set_model_props(model, metadata)
    path = folder / "other.onnx"
    onnx.save(model, path)
    return path


def test_it_gives_the_same_detections_and_raw_predictions(float_file: Path, rewritten: Path) -> None:
    assert rewritten.name == f"{NETWORK}.fp32.cpu.onnx"
    runner, original = OnnxRuntimeRunner(rewritten), OnnxRuntimeRunner(float_file)
    assert runner.spec == original.spec
    images = np.random.default_rng(1).normal(size=(3, 3, 300, 300)).astype(np.float32)
    for got, expected in zip(runner.run(images), original.run(images), strict=True):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(runner.run_raw(images), original.run_raw(images), strict=True):
        np.testing.assert_array_equal(got, expected)


def activations_of_convolutions(path: Path) -> int:
    """Count them; those of the rounds of suppression are behind products."""
    nodes = onnx.load(path).graph.node
    convolved = {node.output[0] for node in nodes if node.op_type == "Conv"}
    return sum(node.op_type == "Relu" and node.input[0] in convolved for node in nodes)


def test_the_work_is_in_the_file(float_file: Path, rewritten: Path) -> None:
    before, after = (activations_of_convolutions(path) for path in (float_file, rewritten))
    assert before > 0 and after == 0, "activations are not fused"
    assert rewritten.stat().st_size < 1.1 * float_file.stat().st_size


@pytest.mark.parametrize(("what", "value"), [("vectors", "avx9"), ("onnxruntime", "0.1"), ("machine", "abacus")])
def test_it_is_refused_on_another_machine(what: str, value: str, rewritten: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{what}: '{value}'.*ssd-deploy export"):
        OnnxRuntimeRunner(made_for(rewritten, tmp_path, **{what: value}))


def test_it_is_refused_on_a_gpu_and_by_tensorrt(rewritten: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="rewritten for a CPU and does not run on a GPU"):
        check_runs_here(
            {CPU_GRAPH_KEY: json.dumps(this_cpu(onnxruntime.__version__))},
            "file",
            onnxruntime.__version__,
            on_cpu=False,
        )
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    with pytest.raises(ModelError, match="rewritten for a CPU"):
        build_engine(rewritten, BuildOptions(), flavour=TENSORRT_RTX, gpu=None, cache=tmp_path)


def test_it_is_not_rewritten_twice(rewritten: Path) -> None:
    with pytest.raises(ModelError, match="is a result of cpu already, which cpu does not take"):
        STEPS["cpu"].apply(rewritten, rewritten.parent)
    assert not rewritten.with_suffix(".cpu.onnx").exists()
