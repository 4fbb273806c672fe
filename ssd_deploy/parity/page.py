"""A parity run -> a folder with one page, its data, and the pictures whose detections changed."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.parity.changed_pictures import ChangedPicture, changed_pictures
from ssd_deploy.parity.compare import BackendRun, Comparison
from ssd_deploy.parity.criteria import MOVED_IOU
from ssd_deploy.parity.pairs import ImageChanges, find_changes
from ssd_deploy.parity.report import ParityOutcome
from ssd_train.detections import Detections
from ssd_train.files import write_json
from ssd_train.report.page import DATA_NAME, PAGE_NAME, older_files, remove_older, write_page
from ssd_train.report.pictures import PICTURES_NAME, write_linked
from ssd_train.report.provenance import describe_run
from ssd_train.report.table import Column, Link, SortableTable

# Of `report.json`; raised where a field changes its meaning or goes away.
SCHEMA_VERSION = 1

# Most pictures of a comparison.
PICTURES = 12
# How many changes a picture's caption names.
NAMED = 3

KINDS = {
    "kept": "the same on both sides",
    "moved": f"the same class in another place, an IoU below {MOVED_IOU:g}",
    "relabelled": "the same place, another class; counted under the reference's",
    "vanished": "only the reference has it",
    "appeared": "only this backend has it",
}


def write_parity_report(folder: Path, outcome: ParityOutcome, *, pictures: int = PICTURES) -> Path:
    """Write everything, the page last, and return its path.

    What an earlier report left in the folder and this one has not is removed.

    Args:
        folder: made where it is missing; call `report.page.check_report` before the work that comes before this.
        outcome: what it shows.
        pictures: most of each comparison.

    Raises:
        SSDDeployError: the folder cannot be written.
        ImageError, DatasetError: an image cannot be read any more.
    """
    older = older_files(folder, [f"{PICTURES_NAME}/changed_*_*.jpg"])
    sections: list[dict[str, Any]] = []
    for number, (comparison, run) in enumerate(zip(outcome.comparisons, outcome.candidates, strict=True), start=1):
        changes = _changes(outcome.reference, run, comparison)
        sections.append(
            {
                "id": f"comparison-{number}",
                "comparison": comparison,
                "numbers": _numbers(comparison),
                "classes": class_table(outcome, comparison, run, changes),
                "changed_images": sum(each.counts().changed > 0 for each in changes),
                "pictures": list(_write_pictures(folder, number, outcome, run, changes, pictures)),
                "facts": _facts(run),
            }
        )
    data = {"schema_version": SCHEMA_VERSION, **outcome.to_dict()}
    for each, section in zip(data["comparisons"], sections, strict=True):
        each["pictures"] = [
            {name: picture[name] for name in ("file", "image", "changes")} for picture in section["pictures"]
        ]
    write_json(folder / DATA_NAME, data)
    values = {
        "outcome": outcome,
        "spec": outcome.reference.runner.spec,
        "report": outcome.reference.report,
        "comparisons": comparison_table(outcome),
        "sections": sections,
        "ran": _ran(outcome),
    }
    write_page(folder / PAGE_NAME, "parity.html.j2", values, package="ssd_deploy.parity")
    kept = {Path(picture["file"]).name for section in sections for picture in section["pictures"]}
    remove_older(older, kept)
    return folder / PAGE_NAME


# --- Tables ---


def comparison_table(outcome: ParityOutcome) -> SortableTable:
    """Return a row a backend and precision, each leading to its part of the page."""
    columns = (
        Column(title="backend"),
        Column(title="precision"),
        Column(title="verdict"),
        Column(title="metric, %", form="precise", about="the data set's headline number"),
        Column(title="difference, points", form="precise", about="from the reference's"),
        Column(title="changed", form="count", about="detections at the working threshold"),
        Column(title="of", form="count", about="detections at the working threshold on either side"),
        Column(title="share", form="percent", about="of these that changed"),
        Column(title="agreement AP", form="precise", about="COCO AP with the reference's detections as the truth"),
        Column(title="ms/image", form="number"),
        Column(title="starts at", about="the first stage that left its limit"),
    )
    rows = [
        [
            Link(text=each.backend, href=f"#comparison-{number}"),
            each.precision,
            "pass" if each.verdict.passed else "FAIL",
            100 * each.metric,
            100 * each.metric_difference,
            each.changes.changed,
            each.changes.total,
            each.changes.share,
            each.agreement,
            each.latency_ms,
            each.first_failing_stage,
        ]
        for number, each in enumerate(outcome.comparisons, start=1)
    ]
    return SortableTable(columns=columns, rows=rows)


def class_table(
    outcome: ParityOutcome, comparison: Comparison, run: BackendRun, changes: Sequence[ImageChanges]
) -> SortableTable:
    """Return a row a class, those that differ most first: AP on both sides where there is a metric, and changes."""
    names = outcome.dataset.class_names
    counts = _changes_by_class(outcome.reference.detections, run.detections, changes)
    scored = comparison.per_class_difference
    columns = [Column(title="class")]
    if scored:
        columns += [
            Column(title="reference, %", form="precise", about="AP of the class"),
            Column(title="this, %", form="precise", about="AP of the class"),
            Column(title="difference, points", form="precise"),
        ]
    columns += [Column(title=kind, form="count", about=about) for kind, about in KINDS.items()]
    rows: list[list[Any]] = []
    for label, name in enumerate(names):
        difference = scored.get(name, math.nan)
        ours = _first(outcome.reference, name)
        numbers = [100 * ours, 100 * (ours + difference), 100 * difference] if scored else []
        rows.append([name, *numbers, *(counts[kind][label] for kind in KINDS)])
    changed = slice(-len(KINDS) + 1, None)
    rows.sort(key=lambda row: (-abs(np.nan_to_num(row[3])) if scored else 0, -sum(row[changed])))
    return SortableTable(columns=tuple(columns), rows=rows)


def _first(run: BackendRun, class_name: str) -> float:
    """Return a class's first number, which is the headline's; NaN where it has none."""
    values = {} if run.report is None else run.report.per_class.get(class_name, {})
    return next(iter(values.values()), math.nan)


def _changes(reference: BackendRun, candidate: BackendRun, comparison: Comparison) -> list[ImageChanges]:
    return [
        find_changes(ours, theirs, comparison.score_threshold)
        for ours, theirs in zip(reference.detections, candidate.detections, strict=True)
    ]


def _changes_by_class(
    reference: Sequence[Detections], candidate: Sequence[Detections], changes: Sequence[ImageChanges]
) -> dict[str, Counter[int]]:
    """Count each kind by label: the reference's, and the candidate's of what appeared."""
    counts: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    for ours, theirs, found in zip(reference, candidate, changes, strict=True):
        labels: dict[str, NDArray[np.int64]] = {
            **{kind: ours.labels[getattr(found, kind)[:, 0]] for kind in ("kept", "moved", "relabelled")},
            "vanished": ours.labels[found.vanished],
            "appeared": theirs.labels[found.appeared],
        }
        for kind, of_kind in labels.items():
            counts[kind].update(of_kind.tolist())
    return counts


# --- Pictures and facts ---


def _write_pictures(
    folder: Path, number: int, outcome: ParityOutcome, run: BackendRun, changes: Sequence[ImageChanges], most: int
) -> Iterator[dict[str, Any]]:
    dataset = outcome.dataset
    found = changed_pictures(
        dataset.samples, outcome.reference.detections, run.detections, changes, dataset.class_names, most
    )
    for place, each in enumerate(found, start=1):
        file = f"{PICTURES_NAME}/changed_{number:02d}_{place:02d}.jpg"
        yield {
            "file": file,
            "uri": write_linked(folder, file, each.picture),
            "image": str(each.sample.image_id),
            "changes": list(each.texts),
            "caption": _caption(each),
        }


def _caption(picture: ChangedPicture) -> str:
    more = len(picture.texts) - NAMED
    return f"{picture.sample.path.name}: {'; '.join(picture.texts[:NAMED])}" + (
        f"; and {more} more" if more > 0 else ""
    )


def _numbers(comparison: Comparison) -> list[tuple[str, float, str]]:
    """Return what is to be seen first of a comparison: name, value, form."""
    numbers: list[tuple[str, float, str]] = [
        (f"of {comparison.changes.total} detections changed", comparison.changes.changed, "count"),
        ("share of them", comparison.changes.share, "percent"),
        ("agreement AP", comparison.agreement, "precise"),
        ("ms/image", comparison.latency_ms, "number"),
    ]
    if not math.isnan(comparison.metric):
        numbers.insert(0, ("points of the metric", 100 * comparison.metric_difference, "precise"))
        numbers.insert(0, ("metric, %", 100 * comparison.metric, "precise"))
    return numbers


def _facts(run: BackendRun) -> dict[str, str]:
    """Return what a candidate is made of."""
    spec = run.runner.spec
    facts = {
        "weights": spec.weights,
        "SHA-256 of the weights": spec.weights_sha256,
        "made with": ", ".join(f"{name} {version}" for name, version in spec.versions.items()),
        "detector": _thresholds(dataclasses.asdict(spec.postprocess)),
    }
    return {name: value for name, value in facts.items() if value}


def _ran(outcome: ParityOutcome) -> dict[str, str]:
    """Return what was compared, and where."""
    reference = outcome.reference
    spec = reference.runner.spec
    facts = describe_run(outcome.dataset, spec, backend=reference.runner.name)
    facts["reference"] = f"{facts.pop('backend')}, {facts.pop('precision')}, {reference.latency_ms:.1f} ms/image"
    facts["detector"] = _thresholds(dataclasses.asdict(spec.postprocess))
    thresholds = dict.fromkeys(f"{each.score_threshold:g}" for each in outcome.comparisons)
    facts["working threshold"] = ", ".join(thresholds)
    if reference.report is not None:
        facts["metric"] = f"{reference.report.headline_name}, {reference.report.protocol_text}"
    return facts


def _thresholds(values: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in values.items())
