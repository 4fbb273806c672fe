"""All that was found -> the certificate."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import ssd_deploy
from ssd_deploy.benchmark.measure import SPANS
from ssd_deploy.ship import certificate as parts
from ssd_deploy.ship.certificate import FAIL, NOT_RUN, PASS, SCHEMA_VERSION, Certificate, NotRun
from ssd_deploy.ship.files import Model
from ssd_deploy.ship.images import SAMPLES_FOLDER
from ssd_deploy.ship.judge import Judged
from ssd_deploy.ship.settings import Shipping
from ssd_deploy.ship.stages import name_in
from ssd_train.datasets.dataset import Dataset
from ssd_train.environment import describe_environment
from ssd_train.evaluation.evaluate import EvaluationReport
from ssd_train.files import sha256_of_file
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import DetectorSpec


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What was found.

    Attributes:
        spec: the detector, in float32.
        data_sha256: see `images.data_sha256`.
        models: that were made.
        judged: every file in every backend; `checks` are the same with their times.
        reference: the reference with its times; `report` is its score.
        threshold: the working threshold.
        files: every file of the folder that a stage wrote, with its SHA-256.
        missing: what was asked for and could not be made or run.
    """

    shipping: Shipping
    spec: DetectorSpec
    dataset: Dataset
    data_sha256: str
    models: Sequence[Model]
    judged: Sequence[Judged]
    checks: list[parts.Check]
    reference: parts.Check
    report: EvaluationReport | None
    threshold: float
    fastest: parts.Fastest | None
    samples: list[parts.Sample]
    files: Mapping[Path, str]
    not_run: Sequence[NotRun]
    missing: Sequence[str]


def assemble(found: Outcome, out: Path) -> Certificate:
    """Return the certificate of a folder, without the page, which shows it."""
    shipping, spec, dataset, report = found.shipping, found.spec, found.dataset, found.report
    models = [
        _model_file(model, [check for check in found.checks if check.file == name_in(model.path, out)], found, out)
        for model in found.models
    ]
    known = {file.path for file in models}
    others = [
        parts.File(path=name_in(path, out), sha256=sha256, size_bytes=path.stat().st_size, what=_what(path, out))
        for path, sha256 in found.files.items()
        if name_in(path, out) not in known
    ]
    verdict, text = _verdict(found.checks, models, found.missing if shipping.strict else [])
    calibrated, calibration_sha256 = shipping.calibration or (0, "")
    return Certificate(
        schema_version=SCHEMA_VERSION,
        verdict=verdict,
        verdict_text=text,
        made_at=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        made_by=f"ssd-deploy {ssd_deploy.__version__}",
        targets=list(map(str, shipping.asked)),
        detector=parts.Detector(
            network=spec.network,
            class_names=list(spec.class_names),
            input_size=list(spec.input_size),
            weights=spec.weights,
            weights_sha256=spec.weights_sha256,
            postprocess=spec.postprocess,
            mean=list(spec.mean),
            std=list(spec.std),
            resize=spec.resize,
        ),
        data=parts.Data(
            name=dataset.name,
            images=len(dataset.samples),
            objects=sum(len(sample.ground_truth) for sample in dataset.samples),
            sha256=found.data_sha256,
            calibration=_calibration(shipping),
            calibration_images=calibrated,
            calibration_sha256=calibration_sha256,
        ),
        criteria=parts.Criteria(
            text=_criteria(shipping, found.models, None if report is None else report.metric),
            score_threshold=found.threshold,
            max_drop=shipping.criteria.max_drop,
            strict=shipping.strict,
        ),
        metric="" if report is None else report.headline_name,
        protocol="" if report is None else report.protocol_text,
        reference=found.reference,
        checks=found.checks,
        files=sorted([*models, *others], key=lambda file: file.path),
        fastest=found.fastest,
        not_run=list(dict.fromkeys(found.not_run)),
        spans={name: SPANS[name] for name in found.reference.latency or {}},
        environment=dataclasses.asdict(describe_environment()),
        samples=found.samples,
        sample_changes=[
            parts.SampleChanges(
                file=each.check.file,
                backend=each.check.backend,
                changed=each.samples_changed,
                total=each.samples_total,
            )
            for each in found.judged
        ],
    )


def _model_file(model: Model, checks: Sequence[parts.Check], found: Outcome, out: Path) -> parts.File:
    name = name_in(model.path, out)
    failed = [check for check in checks if check.verdict == FAIL]
    verdict: parts.Verdict
    if failed:
        verdict, why = FAIL, "; ".join(f"{check.runner}: {check.text}" for check in failed)
    elif checks:
        verdict, why = PASS, "; ".join(f"{check.runner}: {check.text}" for check in checks)
    else:
        verdict, why = NOT_RUN, "; ".join(each.why for each in found.not_run if each.what == name)
    return parts.File(
        path=name,
        sha256=sha256_of_file(model.path),
        size_bytes=model.path.stat().st_size,
        what=model.what,
        precision=model.form.precision,
        made_of="" if model.made_of is None else name_in(model.made_of, out),
        verdict=verdict,
        why=why,
    )


def _verdict(
    checks: Sequence[parts.Check], files: Sequence[parts.File], needed: Sequence[str]
) -> tuple[parts.Verdict, str]:
    """Return the verdict of all; `needed` is what is missing and had to be there."""
    failed = [file.path for file in files if file.verdict == FAIL]
    waiting = [file.path for file in files if file.verdict == NOT_RUN]
    if failed:
        return FAIL, f"{len(failed)} of {len(files)} model files failed: {', '.join(failed)}"
    if needed:
        return FAIL, f"not everything was made and run, which was asked for: {', '.join(needed)}"
    ran = f"{len(files) - len(waiting)} model files were run here, in {len(checks)} pairs of file and backend"
    text = f"{ran}, all within the limits"
    return PASS, text + (f"; {len(waiting)} could not be run here" if waiting else "")


def _criteria(shipping: Shipping, models: Sequence[Model], metric: str | None) -> list[str]:
    """Say what had to be met, a sentence a precision."""
    lines = []
    for name in dict.fromkeys(model.form.precision for model in models):
        limits = PRECISIONS.find(name).limits
        if limits is None:
            lines.append(f"{name} has to be equal to the reference but for rounding, stage by stage")
            continue
        drop = None if metric is None else shipping.criteria.metric_limit(limits, metric)
        if drop is not None:
            lines.append(f"{name} may lose {drop:g} points of the metric")
        else:
            changed = limits.changed if shipping.criteria.max_changed is None else shipping.criteria.max_changed
            lines.append(f"{name}: {100 * changed:g} % of the detections may change")
    return lines


def _calibration(shipping: Shipping) -> str:
    if shipping.calibration is None:
        return ""
    return shipping.calibrating.of_split or f"images of {shipping.calibrating.int8.calibration_data}"


def _what(path: Path, out: Path) -> str:
    return (
        "an image to verify with"
        if path.parent == out / SAMPLES_FOLDER
        else f"part of {path.relative_to(out).parts[0]}"
    )
