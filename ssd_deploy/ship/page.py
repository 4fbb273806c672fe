"""A certificate -> one HTML file for those who decide: the verdict, one table, a chart, pictures, then the details."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_deploy.parity.reference import title_of
from ssd_deploy.ship.certificate import FAIL, Certificate, Check, File
from ssd_deploy.ship.chart import short_name, speed_chart
from ssd_deploy.ship.judge import Judged
from ssd_train.report.page import write_page
from ssd_train.report.table import Column, SortableTable

# Of all checks together: each is some 40 kB inside the page.
PICTURES = 8

# What a verdict means to who has to decide.
MEANINGS = {
    "PASS": "Every file that could be run on this machine finds what the reference finds, which is the trained "
    "network itself, within the limits below. A file that is NOT RUN lies here too, but nothing is proven of it yet.",
    "FAIL": "Do not use this folder as it is. Something that was asked for is missing, or finds something else than "
    "the trained network does; the table says what.",
}


def write_certificate_page(path: Path, made: Certificate, judged: Sequence[Judged]) -> Path:
    """Write the page atomically, and return its path.

    Args:
        made: what it shows.
        judged: brings the pictures.

    Raises:
        SSDDeployError: it cannot be written.
    """
    waiting = [file for file in made.files if file.verdict is not None and not _checks(made, file)]
    values = {
        "made": made,
        "reference": title_of(made.reference.backend),
        "meaning": MEANINGS[made.verdict],
        "numbers": _numbers(made),
        "checks": check_table(made),
        "waiting": waiting,
        "chart": speed_chart(made),
        "pictures": _pictures(made, judged),
        "files": _file_table(made),
        "stages": [(check, check.stages) for check in made.checks],
        "about_data": _about_data(made),
        "about_detector": _about_detector(made),
        "environment": _environment(made),
        "spans": made.spans,
    }
    write_page(path, "certificate.html.j2", values, package="ssd_deploy.ship")
    return path


def check_table(made: Certificate) -> SortableTable:
    """Return the one table: a row a file and backend, and one for the reference; then what did not run."""
    columns = (
        Column(title="verdict"),
        Column(title="file"),
        Column(title="backend"),
        Column(title="precision"),
        Column(title="metric, %", form="points", about=made.metric or "the images have no ground truth"),
        Column(title="lost", form="points", about="points of the metric, against the reference"),
        Column(title="changed", form="count", about="detections at the working threshold"),
        Column(title="of", form="count", about="detections at the working threshold on either side"),
        Column(title="p50", form="number", about="median milliseconds of one image: network, box decoding, NMS"),
        Column(title="p90", form="number", about="nine of ten images take no longer"),
        Column(title="p99", form="number", about="99 of 100 images take no longer"),
        Column(title="times", form="number", about="as fast as the float32 file"),
    )
    rows = [_row("reference", made.reference, f"{title_of(made.reference.backend)}, the trained network")]
    rows += [_row(check.verdict, check, short_name(check.file, made)) for check in made.checks]
    rows += [
        [file.verdict, short_name(file.path, made), "–", file.precision, *8 * [None]]
        for file in made.files
        if file.verdict is not None and not _checks(made, file)
    ]
    return SortableTable(columns=columns, rows=rows)


def _row(verdict: str, check: Check, name: str) -> list[Any]:
    network = None if check.latency is None else check.latency["network"]
    times = [None] * 3 if network is None else [network.p50_ms, network.p90_ms, network.p99_ms]
    is_compared = check.file != ""
    return [
        verdict,
        name,
        check.runner,
        check.precision,
        None if check.metric is None else 100 * check.metric,
        check.lost,
        check.changed if is_compared else None,
        check.total if is_compared else None,
        *times,
        check.times_float32,
    ]


def _checks(made: Certificate, file: File) -> list[Check]:
    return [check for check in made.checks if check.file == file.path]


def _numbers(made: Certificate) -> list[tuple[str, str]]:
    """Return what is to be seen first: value and name."""
    models = [file for file in made.files if file.verdict is not None]
    ran = [file for file in models if _checks(made, file)]
    numbers = [(f"{len(ran)} of {len(models)}", "model files were run here")]
    if made.reference.metric is not None:
        numbers.append((f"{100 * made.reference.metric:.1f} %", f"{made.metric} of the trained network"))
    if made.fastest is not None:
        numbers.append((f"{made.fastest.p50_ms:.3g} ms", "an image, by the fastest that is allowed"))
        numbers.append((f"{made.fastest.times_float32:.2f} ×", "as fast as the float32 file"))
    numbers.append((str(made.data.images), "images were scored"))
    return numbers


def _pictures(made: Certificate, judged: Sequence[Judged]) -> list[dict[str, str]]:
    """Return pictures of changed detections, those of failed files first, the worst of each check before the next."""
    ordered = sorted(judged, key=lambda each: each.check.verdict != FAIL)
    rounds = max((len(each.pictures) for each in ordered), default=0)
    chosen: dict[str, dict[str, str]] = {}
    for number in range(rounds):
        for each in ordered:
            if number < len(each.pictures):
                picture = each.pictures[number]
                # One change that several files have in common is shown once.
                caption = f"{short_name(each.check.file, made)} in {each.check.runner}. {picture.caption}"
                chosen.setdefault(picture.caption, {"uri": picture.uri, "caption": caption})
    return list(chosen.values())[:PICTURES]


def _file_table(made: Certificate) -> SortableTable:
    columns = (
        Column(title="file"),
        Column(title="what"),
        Column(title="bytes", form="count"),
        Column(title="made of"),
        Column(title="SHA-256"),
    )
    rows = [[file.path, file.what, file.size_bytes, file.made_of, file.sha256] for file in made.files]
    return SortableTable(columns=columns, rows=rows)


def _about_data(made: Certificate) -> dict[str, str]:
    data = made.data
    facts = {
        "scored": f"{data.name}, {data.images} images, {data.objects} objects",
        "SHA-256 of images and objects": data.sha256,
        "metric": made.metric,
        "protocol": made.protocol,
        "int8 calibrated on": f"{data.calibration}, {data.calibration_images} of them; none of them was scored"
        if data.calibration
        else "",
        "SHA-256 of these": data.calibration_sha256,
        "travel along": f"{len(made.samples)} of the scored images, with what the reference found in them",
    }
    return {name: value for name, value in facts.items() if value}


def _about_detector(made: Certificate) -> dict[str, str]:
    detector = made.detector
    height, width = detector.input_size
    settings = vars(detector.postprocess)
    return {
        "network": f"{detector.network}, input {width}x{height}",
        "classes": ", ".join(detector.class_names),
        "weights": detector.weights,
        "SHA-256 of the weights": detector.weights_sha256,
        "inside the files": ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items()),
        "targets": ", ".join(made.targets),
        "made by": made.made_by,
    }


def _environment(made: Certificate) -> dict[str, str]:
    known = made.environment
    packages = known.get("packages") or {}
    return {
        "machine": f"{known.get('cpu')}, {known.get('cores')} cores",
        "GPU": str(known.get("gpu") or "none"),
        "system": f"{known.get('platform')}, Python {known.get('python')}",
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
    }
