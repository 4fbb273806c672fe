"""What the tests on a GPU share: networks, models and engines made once, answers held against each other.

Nothing here needs a GPU; `test_gpu_parts.py` tries it all on the CPU.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.engine.build import BuiltEngine
from export.engine.file import BuildOptions
from ssd_deploy.backends.base import Runner
from ssd_deploy.parity.compare import BackendRun, Comparison, compare, run_backend
from ssd_deploy.parity.criteria import Criteria
from ssd_deploy.parity.pairs import match_detections
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.source import find_source
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.metrics.protocol import Protocol
from ssd_train.spec import OUTPUT_NAMES

# The most different ones first, so that a run that is cut short has seen each kind.
NETWORKS = (
    "ssd_300_vgg16_atrous_voc",
    "ssd_512_resnet50_v1_coco",
    "ssd_512_mobilenet1.0_voc",
    "ssd_512_vgg16_atrous_coco",
    "ssd_300_vgg16_atrous_coco",
    "ssd_512_resnet50_v1_voc",
    "ssd_512_mobilenet1.0_coco",
    "ssd_512_vgg16_atrous_voc",
)
SMALL = "ssd_300_mobilenet0.25_voc"
PRECISIONS = ("fp32", "fp16")

# Largest batch of the small network's engines.
MAX_BATCH = 5


class Limits(NamedTuple):
    """How far two answers may be apart: scores, corners in input pixels, the share without a partner."""

    score: float
    box_px: float
    alone: float


# One engine or runner asked twice, in batches of other sizes. Its kernels may split sums differently, so the last
# bits differ; where two candidates are equal up to these, either may stand, which leaves one in a hundred alone.
SAME_RUNNER = {"fp32": Limits(1e-5, 1e-2, 0.01), "fp16": Limits(1e-2, 1.0, 0.05)}

# Largest difference of raw predictions, as a share of their standard deviation. Half precision and TF32 keep 10 bits
# of mantissa, bfloat16 keeps 7.
RAW = {"fp32": 1e-3, "tf32": 2e-2, "fp16": 2e-2, "bf16": 0.4}


class Allowed(NamedTuple):
    """How far a precision may be from float32 with random weights, whose scores lie close together.

    Parity itself judges by what a precision costs, which is nothing where nothing real is detected.
    """

    agreement: float
    metric: float
    limits: Limits
    pair_iou: float


HALF = Allowed(0.98, 5e-3, Limits(2e-2, 1.0, 0.03), 0.8)
ALLOWED = {"tf32": HALF, "fp16": HALF, "bf16": Allowed(0.85, 3e-2, Limits(0.2, 10.0, 0.3), 0.5)}

# The best detections of random weights score little, so all count.
RANDOM_WEIGHTS = Criteria(score_threshold=0.0, max_drop=100)

# Float32 in another library, TF32 off: what `parity.Tolerances` allows.
OTHER_BACKEND = Limits(1e-4, 0.1, 0.01)


class Difference(NamedTuple):
    """The largest differences of two answers, and the share of detections without a partner on the other side."""

    score: float
    box_px: float
    alone: float

    def within(self, limits: Limits) -> bool:
        return all(found <= limit for found, limit in zip(self, limits, strict=True))


def noise(count: int, seed: int = 0, size: int = 300) -> NDArray[np.float32]:
    """Return `count` network inputs in which the small random network finds its 100 detections each."""
    return np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)


def rows_of(padded: PaddedDetections, rows: slice) -> PaddedDetections:
    """Return some images' part of an answer."""
    return PaddedDetections(*(array[rows] for array in padded))


def difference(found: PaddedDetections, expected: PaddedDetections, size: int = 300) -> Difference:
    """Compare the answers for a batch as matched pairs, in input pixels.

    Raises:
        AssertionError: the batches differ in size, or nothing was found on either side.
    """
    assert [array.shape for array in found] == [array.shape for array in expected]
    sides = [
        [Detections.from_padded(side, row, (size, size), (size, size)) for row in range(len(expected.labels))]
        for side in (expected, found)
    ]
    return detection_difference(*sides, pair_iou=0.8)


def detection_difference(
    reference: Sequence[Detections], candidate: Sequence[Detections], *, pair_iou: float
) -> Difference:
    """Compare detections image by image as matched pairs.

    Raises:
        AssertionError: nothing was found on either side.
    """
    score = box_px = 0.0
    alone = total = 0
    for ours, theirs in zip(reference, candidate, strict=True):
        pairs = match_detections(ours, theirs, pair_iou)
        score = max(score, float(np.abs(ours.scores[pairs[:, 0]] - theirs.scores[pairs[:, 1]]).max(initial=0)))
        box_px = max(box_px, float(np.abs(ours.boxes[pairs[:, 0]] - theirs.boxes[pairs[:, 1]]).max(initial=0)))
        alone += len(ours) + len(theirs) - 2 * len(pairs)
        total += len(ours) + len(theirs)
    assert total > 0, "nothing was found, so nothing was compared"
    return Difference(score, box_px, alone / total)


def assert_same(found: PaddedDetections, expected: PaddedDetections, limits: Limits) -> None:
    """Fail unless two answers are the same up to `limits`."""
    apart = difference(found, expected)
    assert apart.within(limits), f"{apart} is not within {limits}"


def spread_difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest difference of raw predictions as a share of their standard deviation."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / expected.std())


class Models:
    """Exported files, their engines and the references, each made once.

    Args:
        folder: of the exported files; those that `export_models.py` left there are used.
        cache: of engines and timing caches.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache

    def onnx(self, name: str, precision: str = "fp32") -> Path:
        """Export a network with random weights."""
        path = self.folder / f"{name}.{precision}.onnx"
        return path if path.is_file() else export_model(name, precision, self.folder)

    def engine(
        self, name: str, precision: str, flavour: str, *, outputs: Sequence[str] = OUTPUT_NAMES, **options: Any
    ) -> BuiltEngine:
        """Build an engine; `options` are those of `BuildOptions`."""
        from ssd_deploy import engines

        return engines.engine_for(
            self.onnx(name, precision), BuildOptions(**options), flavour=flavour, outputs=outputs, cache=self.cache
        )

    @functools.cache  # noqa: B019 one of these lives as long as the test run
    def reference(self, name: str, dataset_root: Path, limit: int | None = None) -> BackendRun:
        """Run ONNX Runtime on the CPU over a data set; the runner is closed, its answers are kept."""
        from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

        runner = OnnxRuntimeRunner(self.onnx(name))
        run = over(runner, dataset_root, batch_size=1, limit=limit)
        runner.close()
        return run


def export_model(name: str, precision: str, folder: Path) -> Path:
    """Export a network with random weights to `folder/<name>.<precision>.onnx`."""
    from export.onnx import export_onnx
    from ssd_train import build_network
    from ssd_train.precisions import in_precision

    return export_onnx(in_precision(build_network(name, weights="random"), precision), folder)


def images_of(runner: Runner, root: Path, limit: int | None = None) -> Dataset:
    """Read a data set in COCO's layout with the classes of a detector."""
    return find_source("coco", root).load(None, runner.spec.class_names).limited(limit)


def over(runner: Runner, root: Path, *, batch_size: int, limit: int | None = None) -> BackendRun:
    """Run a backend over a data set and score it."""
    return run_backend(
        runner,
        images_of(runner, root, limit),
        metric="coco",
        protocol=Protocol.STANDARD,
        batch_size=batch_size,
        workers=2,
    )


def held_against(
    reference: BackendRun, runner: Runner, root: Path, *, batch_size: int = 4, limit: int | None = None
) -> Comparison:
    """Hold a backend against a reference; raw predictions are left out.

    Beside parity's own verdict a precision that changes numbers is held to `ALLOWED`; what leaves it is one of the
    comparison's `failures`.
    """
    candidate = over(runner, root, batch_size=batch_size, limit=limit)
    dataset = images_of(runner, root, limit)
    comparison = compare(reference, candidate, dataset, RANDOM_WEIGHTS, with_raw=False)
    allowed = ALLOWED.get(comparison.precision)
    if allowed is None:
        return comparison
    apart = detection_difference(reference.detections, candidate.detections, pair_iou=allowed.pair_iou)
    failures = list(comparison.failures)
    if not apart.within(allowed.limits):
        failures.append(f"{apart} is not within {allowed.limits}")
    if not comparison.agreement >= allowed.agreement:
        failures.append(f"agreement AP {comparison.agreement} is below {allowed.agreement}")
    if not abs(comparison.metric_difference) <= allowed.metric:
        failures.append(f"the metric differs by {comparison.metric_difference}")
    return dataclasses.replace(comparison, failures=tuple(failures))


def summary(comparison: Comparison) -> dict[str, Any]:
    """Return what a record of a comparison holds."""
    return {
        "backend": comparison.backend,
        "precision": comparison.precision,
        "agreement": comparison.agreement,
        "metric": comparison.metric,
        "metric_difference": comparison.metric_difference,
        "score_difference": comparison.score_difference,
        "box_difference_px": comparison.box_difference,
        "unmatched": comparison.unmatched,
        "matched": comparison.matched,
        "latency_ms": comparison.latency_ms,
        "failures": list(comparison.failures),
    }


Record = Callable[..., None]


def append_record(path: Path, values: dict[str, Any]) -> None:
    """Append a line of JSON to a file, at once, so that a run that is cut short has left what it found."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
