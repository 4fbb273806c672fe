"""Every backend that works here, over the same images, against PyTorch on one device."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from export.engine.file import is_engine, read_info
from export.engine.flavours import FLAVOURS
from ssd_deploy import doctor
from ssd_deploy.backends import Finding, RunOptions
from ssd_deploy.backends.base import Runner
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_deploy.backends.tensorrt import open_runner as open_tensorrt
from ssd_deploy.parity import TOLERANCES, BackendRun, Comparison, Tolerances, compare, report_dict, run_backend
from ssd_deploy.progress import image_progress
from ssd_deploy.text_table import text_table
from ssd_train.datasets.dataset import Dataset
from ssd_train.errors import BackendError
from ssd_train.evaluation.protocol import Protocol
from ssd_train.networks.ssd import SSD

HEADER = (
    "backend",
    "precision",
    "metric",
    "difference",
    "agreement AP",
    "score",
    "box px",
    "unmatched",
    "ms/image",
    "verdict",
)

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
        dataset: what was compared on.
    """

    reference: BackendRun
    comparisons: tuple[Comparison, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    dataset: Dataset

    @property
    def passed(self) -> bool:
        return all(not comparison.failures for comparison in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return report_dict(self.reference, self.comparisons, self.dataset) | {
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
        rows = [(self.reference.runner.name, spec.precision, headline, *own)]
        rows += [_row(comparison) for comparison in self.comparisons]
        lines += [text_table(HEADER, rows, left=2), ""]
        for comparison in self.comparisons:
            lines += _details(comparison)
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"not run: {reason}" for reason in self.skipped]
        lines.append("PASS: nothing was lost" if self.passed else "FAIL: see above")
        return "\n".join(lines)


def run(
    network: SSD,
    models: Sequence[Path],
    dataset: Dataset,
    *,
    metric: str | None,
    protocol: Protocol,
    tolerances: Mapping[str, Tolerances] = TOLERANCES,
    batch_size: int,
    workers: int,
    reference_device: str,
    allow_tf32: bool,
) -> ParityOutcome:
    """Run PyTorch and every other backend that works on every model file, and compare each with PyTorch.

    ONNX Runtime's TensorRT provider is left out: it rounds to TF32 with no switch against it.

    Args:
        network: float32; its thresholds must be the model files'.
        models: exported files of any precision: `.onnx`, which all backends run, and `.engine`.
        metric: key of `evaluate.METRICS`; None where the images have no ground truth.
        tolerances: precision -> what is allowed.
        reference_device: PyTorch's device for the reference, `cpu` or `cuda`.

    Raises:
        BackendError: nothing but PyTorch works here, or a file was exported from another network.
        DatasetError: there is nothing to compare.
    """
    works = doctor.examine()
    with contextlib.ExitStack() as stack:

        def opened(candidate: Candidate) -> Candidate:
            stack.callback(candidate.runner.close)
            return candidate

        candidates = [opened(candidate) for candidate in _candidates(models, works, allow_tf32, batch_size)]
        _check_same_detector(network, candidates)
        settings = candidates[0].runner.spec.postprocess
        reference_runner = TorchRunner(network, settings, device=reference_device, allow_tf32=allow_tf32)
        stack.callback(reference_runner.close)
        for device in ("cpu", "cuda"):
            if device != reference_device and works[f"torch ({device})"].works:
                # A copy, since a runner moves its network to its device.
                other = TorchRunner(copy.deepcopy(network), settings, device=device, allow_tf32=allow_tf32)
                candidates.insert(0, opened(Candidate(runner=other, model=None)))

        def over_all_images(runner: Runner) -> BackendRun:
            with image_progress(f"{runner.name}, {runner.spec.precision}", len(dataset.samples)) as on_progress:
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
            compare(
                reference,
                over_all_images(candidate.runner),
                dataset,
                tolerances[candidate.runner.spec.precision],
                batch_size=batch_size,
                with_raw=candidate.has_raw,
            )
            for candidate in candidates
        ]
    skipped = [f"{name}: {finding.detail}" for name, finding in works.items() if not finding.works]
    return ParityOutcome(
        reference=reference,
        comparisons=tuple(comparisons),
        skipped=tuple(skipped),
        notes=tuple(_notes(reference_runner, candidates)),
        dataset=dataset,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A runner that is to be compared.

    Attributes:
        model: its file; None for PyTorch.
        has_raw: whether it can tell what the network predicts before decoding.
    """

    runner: Runner
    model: Path | None
    has_raw: bool = True


def _candidates(
    models: Sequence[Path], works: Mapping[str, Finding], allow_tf32: bool, batch_size: int
) -> Iterator[Candidate]:
    """Open every model file in every backend that works here and runs it."""
    for model in models:
        if is_engine(model):
            engine = open_tensorrt(read_info(model).flavour, model, RunOptions(device="cuda"))
            yield Candidate(runner=engine, model=model, has_raw=False)
            continue
        for provider in ("cpu", "cuda"):
            if works[f"onnxruntime ({provider})"].works:
                runner = OnnxRuntimeRunner(model, provider=provider, allow_tf32=allow_tf32)
                yield Candidate(runner=runner, model=model)
        for flavour in FLAVOURS:
            if works[flavour].works:
                options = RunOptions(device="cuda", batch_size=batch_size, allow_tf32=allow_tf32, with_raw=True)
                engine = open_tensorrt(flavour, model, options)
                yield Candidate(runner=engine, model=model)


def _check_same_detector(network: SSD, candidates: Sequence[Candidate]) -> None:
    if not candidates:
        raise BackendError("no backend beside PyTorch works here; see `ssd-deploy doctor`")
    expected, settings = network.spec, candidates[0].runner.spec.postprocess
    for candidate in candidates:
        spec = candidate.runner.spec
        if (spec.network, spec.class_names) != (expected.network, expected.class_names):
            raise BackendError(
                f"{candidate.model}: was exported from {spec.network} with {len(spec.class_names)} classes, not "
                f"from {expected.network} with {len(expected.class_names)}; name the network that it was made from"
            )
        if spec.postprocess != settings:
            raise BackendError(
                f"{candidate.model}: has other thresholds or counts than {candidates[0].model}; compare files that "
                "were exported with the same"
            )


def _notes(reference: Runner, candidates: Sequence[Candidate]) -> list[str]:
    """Say where a file names other weights (perhaps the same in another format), and what was not compared."""
    ours = reference.spec
    notes = []
    for candidate in candidates:
        name, spec = candidate.runner.name, candidate.runner.spec
        if spec.weights_sha256 != ours.weights_sha256:
            notes.append(
                f"{name} runs weights from {spec.weights} (SHA-256 {spec.weights_sha256[:12]}...), "
                f"PyTorch runs {ours.weights} ({ours.weights_sha256[:12]}...)"
            )
        if not candidate.has_raw:
            notes.append(
                f"{name}: raw logits and offsets were not compared, since an engine does not give them out; "
                "name its .onnx file instead to have them compared"
            )
    return list(dict.fromkeys(notes))


def _row(comparison: Comparison) -> tuple[str, ...]:
    has_metric = comparison.metric == comparison.metric
    return (
        comparison.backend,
        comparison.precision,
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
    lines = [f"{comparison.backend}, {comparison.precision}, against {comparison.reference}:"]
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
