"""On a GPU every backend finds in real images what ONNX Runtime finds on the CPU in float32."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_parts import (
    MAX_BATCH,
    NETWORKS,
    RAW,
    SMALL,
    Models,
    Record,
    held_against,
    noise,
    spread_difference,
    summary,
)

pytestmark = pytest.mark.gpu

# Images a call; the profile's largest.
BATCH = 4

# What is said of float32, whatever the defaults of the tolerances become.
FP32_AGREEMENT = 0.999
FP32_METRIC = 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_an_engine_finds_what_onnx_runtime_finds_on_the_cpu(
    name: str,
    precision: str,
    flavour: str,
    models: Models,
    coco_tiny: Path,
    image_limit: int | None,
    open_engine: Callable[..., Any],
    record: Record,
) -> None:
    built = models.engine(name, precision, flavour, opt_batch=BATCH, max_batch=BATCH)
    reference = models.reference(name, coco_tiny, image_limit)
    comparison = held_against(reference, open_engine(built.path), coco_tiny, batch_size=BATCH, limit=image_limit)
    record(
        **summary(comparison),
        build_seconds=built.info.build_seconds,
        size_bytes=built.info.size_bytes,
        layer_precisions=built.info.layer_precisions,
        warnings=list(built.info.warnings),
    )
    assert comparison.precision == precision
    assert comparison.failures == ()
    if precision == "fp32":
        assert comparison.agreement >= FP32_AGREEMENT
        assert abs(comparison.metric_difference) <= FP32_METRIC
    if flavour == "tensorrt":
        assert_convolutions(built.info.layer_precisions, precision)


def assert_convolutions(layer_precisions: dict[str, int] | None, precision: str) -> None:
    """Fail unless the inspector saw convolutions in `precision` and none in another."""
    assert layer_precisions is not None
    assert layer_precisions.get(precision, 0) > 0, layer_precisions
    assert set(layer_precisions) <= {precision, "unknown"}, layer_precisions


def test_raw_predictions_of_an_engine_are_those_of_onnx_runtime(
    small_runner: Any, precision: str, models: Models, record: Record
) -> None:
    from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

    images = noise(MAX_BATCH)
    expected = OnnxRuntimeRunner(models.onnx(SMALL)).run_raw(images)
    found = small_runner.run_raw(images)
    differences = [spread_difference(ours, theirs) for ours, theirs in zip(found, expected, strict=True)]
    record(precision=precision, raw_differences=differences)
    assert np.max(differences) <= RAW[precision]


@pytest.mark.parametrize("name", [SMALL, NETWORKS[0]])
@pytest.mark.parametrize("with_tf32", [False, True], ids=["", "tf32"])
def test_onnx_runtime_on_cuda_finds_what_it_finds_on_the_cpu(
    name: str,
    with_tf32: bool,
    precision: str,
    onnxruntime_on_gpu: None,
    models: Models,
    coco_tiny: Path,
    image_limit: int | None,
    record: Record,
) -> None:
    from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

    runner = OnnxRuntimeRunner(models.onnx(name, precision), device="cuda", allow_tf32=with_tf32)
    reference = models.reference(name, coco_tiny, image_limit)
    comparison = held_against(reference, runner, coco_tiny, batch_size=BATCH, limit=image_limit)
    runner.close()
    record(**summary(comparison))
    assert comparison.precision == ("tf32" if with_tf32 and precision == "fp32" else precision)
    assert comparison.failures == ()


@pytest.mark.parametrize("variants", ["plain", "nhwc", "cuda-graph", "cuda-graph+nhwc"])
def test_every_variant_of_onnx_runtime_on_cuda_finds_what_it_finds_on_the_cpu(
    variants: str,
    precision: str,
    onnxruntime_on_gpu: None,
    models: Models,
    coco_tiny: Path,
    image_limit: int | None,
    record: Record,
) -> None:
    from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

    # An uneven number: the last batch is captured by itself.
    limit = min(image_limit or 18, 18)
    runner = OnnxRuntimeRunner(models.onnx(SMALL, precision), device="cuda", variants=tuple(variants.split("+")))
    reference = models.reference(SMALL, coco_tiny, limit)
    comparison = held_against(reference, runner, coco_tiny, batch_size=BATCH, limit=limit)
    runner.close()
    record(**summary(comparison))
    assert comparison.failures == ()


VARIANTS: dict[str, dict[str, bool]] = {
    "default": {},
    "eager": {"cuda_graph": False},
    "tf32": {"allow_tf32": True},
    "channels-last": {"channels_last": True},
    "cuda-graph": {"cuda_graph": True},
    "compile": {"compiled": True},
    "everything": {"compiled": True, "channels_last": True, "cuda_graph": True},
}


@pytest.mark.parametrize("torch_precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_torch_on_cuda_finds_what_torch_finds_on_the_cpu(
    variant: str, torch_precision: str, torch_on_gpu: None, coco_tiny: Path, image_limit: int | None, record: Record
) -> None:
    from gpu_parts import over

    from ssd_deploy.backends.pytorch import TorchRunner
    from ssd_train import build_network
    from ssd_train.precisions import in_precision

    options = VARIANTS[variant]
    if options.get("compiled") and not any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang")):
        pytest.skip("torch.compile needs a C compiler, and there is none")
    # An uneven number: the last batch is another graph and another compiled version.
    limit = min(image_limit or 18, 18)
    reference = over(TorchRunner(build_network(SMALL, weights="random")), coco_tiny, batch_size=1, limit=limit)
    network = in_precision(build_network(SMALL, weights="random"), torch_precision)
    runner = TorchRunner(network, device="cuda", **options)
    comparison = held_against(reference, runner, coco_tiny, batch_size=BATCH, limit=limit)
    runner.close()
    record(**summary(comparison))
    assert comparison.precision == ("tf32" if variant == "tf32" and torch_precision == "fp32" else torch_precision)
    assert comparison.failures == ()
