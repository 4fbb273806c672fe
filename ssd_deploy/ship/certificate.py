"""A certificate as data: what was made, what it was held against, what came of it, and what was not run.

`docs/certificate.schema.json` is its JSON Schema, made of these classes.
"""

import dataclasses
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from ssd_train.errors import ModelError
from ssd_train.json_input import JSONError, convert, quoted, read_json
from ssd_train.spec import GLUONCV_RESIZE, IMAGENET_MEAN, IMAGENET_STD, PostprocessSettings

# Raised where a field changes its meaning or goes away.
SCHEMA_VERSION = 1

JSON_NAME = "certificate.json"
PAGE_NAME = "certificate.html"

Verdict = Literal["PASS", "FAIL", "NOT RUN"]
PASS: Final = "PASS"
FAIL: Final = "FAIL"
NOT_RUN: Final = "NOT RUN"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector:
    """What was shipped.

    Attributes:
        input_size: (height, width) in pixels.
        weights, weights_sha256: the weights' file and its SHA-256.
        postprocess: thresholds and limits inside the files.
        mean, std: of the pixels, RGB, for values in [0, 1].
        resize: the rule that pictures are resized by.
    """

    network: str
    class_names: list[str]
    input_size: list[int]
    weights: str
    weights_sha256: str
    postprocess: PostprocessSettings
    mean: list[float] = dataclasses.field(default_factory=lambda: [*IMAGENET_MEAN])
    std: list[float] = dataclasses.field(default_factory=lambda: [*IMAGENET_STD])
    resize: str = GLUONCV_RESIZE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The images.

    Attributes:
        name: data set and split that was scored.
        images, objects: how many were scored.
        sha256: of every image's name, bytes and objects, in their order.
        calibration: which images int8 was calibrated on; empty where there is none.
        calibration_images, calibration_sha256: how many, and a hash of their hashes, as in the int8 files; none of them
            was scored.
    """

    name: str
    images: int
    objects: int
    sha256: str
    calibration: str
    calibration_images: int
    calibration_sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Criteria:
    """What had to be met.

    Attributes:
        text: in words, a sentence each.
        score_threshold: detections of at least this score were counted.
        max_drop: points of the metric that may be lost; null for what each precision may.
        strict: a file that did not run is a failure.
    """

    text: list[str]
    score_threshold: float
    max_drop: float | None
    strict: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of one span.

    Attributes:
        calls: how many were timed, one image each.
        p50_ms, p90_ms, p99_ms: percentiles in milliseconds.
        images_per_second: of all calls.
    """

    calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_second: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One comparison along the data flow: the largest difference, the largest allowed, and both in words.

    Attributes:
        difference, tolerance: null is infinity, which for the second means no limit.
    """

    name: str
    difference: float | None
    tolerance: float | None
    text: str
    passed: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One file in one backend, or the reference itself.

    Attributes:
        file: path in the folder; empty for the reference.
        backend: as `--backend` takes it.
        runner: what it calls itself, with where it really ran.
        metric: the data set's headline number, a fraction; null where nothing was scored.
        lost: points of it (0 to 100) that were lost against the reference; negative where some were won.
        changed, total: of the detections at the working threshold those that changed, and all.
        agreement: COCO AP with the reference's detections as the truth.
        score_difference, box_difference: largest of the detections that both have; the box's in pixels of the image.
        stages: largest differences along the data flow, with their limits.
        verdict: PASS or FAIL.
        text: what decided, or what failed.
        latency: span -> its times; null where it was not timed.
        times_float32: how many times as fast as float32 in ONNX Runtime, in the span `network`.
    """

    file: str
    backend: str
    runner: str
    precision: str
    metric: float | None
    lost: float | None
    changed: int
    total: int
    agreement: float | None
    score_difference: float
    box_difference: float
    stages: list[Stage]
    verdict: Verdict
    text: str
    latency: dict[str, Latency] | None = None
    times_float32: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    """A file of the folder.

    Attributes:
        path: in the folder, with `/`.
        what: in a few words.
        precision: of a model; empty for other files.
        made_of: path of the file that it was made of; empty for none.
        verdict: of a model: FAIL where it failed in a backend, PASS where it ran, else NOT RUN; null for other files.
        why: what the verdict rests on.
    """

    path: str
    sha256: str
    size_bytes: int
    what: str
    precision: str = ""
    made_of: str = ""
    verdict: Verdict | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotRun:
    """What was not made or not run, and why."""

    what: str
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fastest:
    """What to use here.

    Attributes:
        file, backend: as of its check.
        p50_ms, times_float32: of the span `network`.
        command: what detects with it, typed in the folder.
    """

    file: str
    backend: str
    p50_ms: float
    times_float32: float
    command: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """An image that travels along, and what the reference found in it; see `images.Answer`.

    Attributes:
        file: path in the folder.
        image_size: (height, width) in pixels.
    """

    file: str
    image_size: list[int]
    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleChanges:
    """How many detections of the samples changed where a file was certified."""

    file: str
    backend: str
    changed: int
    total: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
    """All of it.

    Attributes:
        schema_version: `SCHEMA_VERSION`.
        verdict: PASS or FAIL.
        verdict_text: why, a sentence.
        made_at: when, in UTC.
        made_by: program and version.
        targets: as they were asked for.
        metric, protocol: what scored, and by which rules; empty where the images have no ground truth.
        reference: PyTorch in float32, or a file that was adopted in ONNX Runtime.
        checks: every file in every backend that works here.
        files: all of the folder but the certificate itself.
        fastest: null where nothing that may be used was timed.
        not_run: what was not made and not run.
        spans: span of a latency -> what lies inside.
        environment: machine and packages.
        samples, sample_changes: what `verify` runs again.
    """

    schema_version: int
    verdict: Verdict
    verdict_text: str
    made_at: str
    made_by: str
    targets: list[str]
    detector: Detector
    data: Data
    criteria: Criteria
    metric: str
    protocol: str
    reference: Check
    checks: list[Check]
    files: list[File]
    fastest: Fastest | None
    not_run: list[NotRun]
    spans: dict[str, str]
    environment: dict[str, Any]
    samples: list[Sample]
    sample_changes: list[SampleChanges]


def read_certificate(folder: Path) -> Certificate:
    """Read a folder's certificate; what it says is not held against anything here.

    Raises:
        ModelError: there is none, or it is not one of this version.
    """
    path = folder / JSON_NAME
    if not path.is_file():
        raise ModelError(f"{folder}: has no {JSON_NAME}; name a folder that `ssd-deploy ship` wrote")
    try:
        value = read_json(path)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != SCHEMA_VERSION:
            raise JSONError(f"is not of version {SCHEMA_VERSION} of the schema")
        certificate: Certificate = convert(value, Certificate)
        _check_consistent(certificate)
    except JSONError as error:
        raise ModelError(f"{path}: {error}; ship the detector again, or use the version that wrote it") from error
    return certificate


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a certificate, as in `docs/certificate.schema.json`."""
    return msgspec.json.schema(Certificate)


def _check_consistent(certificate: Certificate) -> None:
    """Raise JSONError where values contradict each other that are computed with."""
    classes = len(certificate.detector.class_names)
    if len(certificate.detector.mean) != 3 or len(certificate.detector.std) != 3:
        raise JSONError("has a mean or std that is not three numbers")
    if len(certificate.detector.input_size) != 2:
        raise JSONError("has an input size that is not (height, width)")
    for sample in certificate.samples:
        name = quoted(sample.file)
        if len(sample.image_size) != 2 or min(sample.image_size) < 1:
            raise JSONError(f"has an image_size of {name} that is not (height, width)")
        if not len(sample.boxes) == len(sample.scores) == len(sample.labels):
            raise JSONError(f"has other numbers of boxes, scores and labels for {name}")
        if any(len(box) != 4 for box in sample.boxes):
            raise JSONError(f"has boxes for {name} that are not four numbers")
        if any(not 0 <= label < classes for label in sample.labels):
            raise JSONError(f"has a label for {name} that is not in the class list")
