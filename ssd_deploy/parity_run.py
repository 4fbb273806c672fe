"""Every backend that works here, over the same images, against PyTorch on one device."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_deploy import doctor
from ssd_deploy.backends.base import Runner
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_deploy.parity import BackendRun, Comparison, Tolerances, compare, report_dict, run_backend
from ssd_deploy.progress import image_progress
from ssd_deploy.text_table import text_table
from ssd_train.evaluation.datasets.dataset import Dataset
from ssd_train.evaluation.errors import BackendError
from ssd_train.evaluation.protocol import Protocol
from ssd_train.networks.ssd import SSD

HEADER = ("backend", "metric", "difference", "agreement AP", "score", "box px", "unmatched", "ms/image", "verdict")

# How many unmatched detections the text lists; the JSON has them all.
LISTED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityOutcome:
    """A whole parity run.

    Attributes:
        reference: PyTorch's run.
        comparisons: one a further backend.
        skipped: backends that do not work here, with the reason.
        notes: what to know about the comparison, a sentence each.
        dataset, tolerances: what was compared on, and how strictly.
    """

    reference: BackendRun
    comparisons: tuple[Comparison, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    dataset: Dataset
    tolerances: Tolerances

    @property
    def passed(self) -> bool:
        return all(not comparison.failures for comparison in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return report_dict(self.reference, self.comparisons, self.dataset, self.tolerances) | {
            "skipped": list(self.skipped),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """Return the table, then for each backend what differs and where it starts."""
        spec, report = self.reference.runner.spec, self.reference.report
        lines = [f"{spec.network}, weights: {spec.weights}; {self.dataset.name}, {len(self.dataset.samples)} images"]
        if report is not None:
            lines.append(f"metric: {report.headline_name}; {report.protocol_text}")
        own: tuple[str, ...] = ("-", "-", "-", "-", "-", f"{self.reference.latency_ms:.1f}", "reference")
        headline = "-" if report is None else f"{100 * report.headline:.4f} %"
        rows = [(self.reference.runner.name, headline, *own)]
        rows += [_row(comparison) for comparison in self.comparisons]
        lines += [text_table(HEADER, rows), ""]
        for comparison in self.comparisons:
            lines += _details(comparison)
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"not run: {reason}" for reason in self.skipped]
        lines.append("PASS: nothing was lost" if self.passed else "FAIL: see above")
        return "\n".join(lines)


def run(
    network: SSD,
    model: Path,
    dataset: Dataset,
    *,
    metric: str | None,
    protocol: Protocol,
    tolerances: Tolerances,
    batch_size: int,
    workers: int,
    reference_device: str,
    allow_tf32: bool,
) -> ParityOutcome:
    """Run PyTorch and every other backend that works, and compare each with it.

    ONNX Runtime's TensorRT provider is left out: it rounds to TF32 with no switch against it.

    Args:
        network: its thresholds must be the model file's.
        model: the exported file.
        metric: key of `evaluate.METRICS`; None where the images have no ground truth.
        reference_device: PyTorch's device for the reference, `cpu` or `cuda`.

    Raises:
        BackendError: nothing but PyTorch works here, or the file was exported from another network.
        DatasetError: there is nothing to compare.
    """
    works = {finding.backend: finding for finding in doctor.examine()}
    settings = OnnxRuntimeRunner(model).spec.postprocess
    reference_runner = TorchRunner(network, settings, device=reference_device, allow_tf32=allow_tf32)
    candidates: list[Runner] = []
    for device in ("cpu", "cuda"):
        if device != reference_device and works[f"torch ({device})"].works:
            # A copy, since a runner moves its network to its device.
            candidates.append(TorchRunner(copy.deepcopy(network), settings, device=device, allow_tf32=allow_tf32))
    for provider in ("cpu", "cuda"):
        if works[f"onnxruntime ({provider})"].works:
            candidates.append(OnnxRuntimeRunner(model, provider=provider, allow_tf32=allow_tf32))
    _check_same_detector(reference_runner, candidates, model)

    def over_all_images(runner: Runner) -> BackendRun:
        with image_progress(runner.name, len(dataset.samples)) as on_progress:
            return run_backend(
                runner,
                dataset,
                metric=metric,
                protocol=protocol,
                batch_size=batch_size,
                workers=workers,
                on_progress=on_progress,
            )

    reference = over_all_images(reference_runner)
    comparisons = [
        compare(reference, over_all_images(runner), dataset, tolerances, batch_size) for runner in candidates
    ]
    notes = _notes_on_weights(reference_runner, candidates)
    skipped = [f"{name}: {finding.detail}" for name, finding in works.items() if not finding.works]
    return ParityOutcome(
        reference=reference,
        comparisons=tuple(comparisons),
        skipped=tuple(skipped),
        notes=tuple(notes),
        dataset=dataset,
        tolerances=tolerances,
    )


def _check_same_detector(reference: Runner, candidates: Sequence[Runner], model: Path) -> None:
    if not candidates:
        raise BackendError("no backend beside PyTorch works here; see `ssd-deploy doctor`")
    expected = reference.spec
    for runner in candidates:
        if (runner.spec.network, runner.spec.class_names) != (expected.network, expected.class_names):
            raise BackendError(
                f"{model}: was exported from {runner.spec.network} with {len(runner.spec.class_names)} classes, not "
                f"from {expected.network} with {len(expected.class_names)}; name the network that it was made from"
            )


def _notes_on_weights(reference: Runner, candidates: Sequence[Runner]) -> list[str]:
    """Say where an exported file names other weights: perhaps the same in another format, perhaps not."""
    ours = reference.spec
    return [
        f"{runner.name} runs weights from {runner.spec.weights} (SHA-256 {runner.spec.weights_sha256[:12]}...), "
        f"PyTorch runs {ours.weights} ({ours.weights_sha256[:12]}...)"
        for runner in candidates
        if runner.spec.weights_sha256 != ours.weights_sha256
    ]


def _row(comparison: Comparison) -> tuple[str, ...]:
    has_metric = comparison.metric == comparison.metric
    return (
        comparison.backend,
        f"{100 * comparison.metric:.4f} %" if has_metric else "-",
        f"{100 * comparison.metric_difference:+.4f} %" if has_metric else "-",
        f"{comparison.agreement:.6f}",
        f"{comparison.score_difference:.1e}",
        f"{comparison.box_difference:.1e}",
        f"{comparison.unmatched} of {2 * comparison.matched + comparison.unmatched}",
        f"{comparison.latency_ms:.1f}",
        "FAIL" if comparison.failures else "pass",
    )


def _details(comparison: Comparison) -> list[str]:
    lines = [f"{comparison.backend} against {comparison.reference}:"]
    lines += [f"  {'ok  ' if stage.passed else 'FAIL'} {stage.name}: {stage.text}" for stage in comparison.stages]
    if comparison.first_failing_stage is not None:
        lines.append(f"  the difference starts at: {comparison.first_failing_stage}")
    alone = [
        f"  unmatched, only in {side}: image {image.image_id}, {item['class_name']} {item['score']:.5f}"
        for image in comparison.images
        for side, items in (("PyTorch", image.only_reference), (comparison.backend, image.only_candidate))
        for item in items
    ]
    lines += alone[:LISTED]
    if len(alone) > LISTED:
        lines.append(f"  and {len(alone) - LISTED} more unmatched (all of them with --json)")
    lines += [f"  failed: {failure}" for failure in comparison.failures]
    return lines
