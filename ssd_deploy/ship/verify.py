"""Does a folder hold what its certificate says, and do its files still find the same on this machine?

1. Every file is there, and none has other bytes.
2. Every model file that a backend takes here finds in the images that travel along what PyTorch found in them: by the
   rules of `parity`, without ground truth. What had changed where it was certified may have changed here too.
"""

import contextlib
import dataclasses
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

from ssd_deploy.backends import BackendChoice, RunOptions
from ssd_deploy.backends.base import RawPredictions
from ssd_deploy.parity.compare import BackendRun, compare, run_backend
from ssd_deploy.parity.criteria import Criteria
from ssd_deploy.parity.run import Candidate, find_places, open_in_places
from ssd_deploy.ship.certificate import JSON_NAME, PASS, Certificate, File, SampleChanges, read_certificate
from ssd_deploy.ship.images import Answer
from ssd_deploy.ship.stages import KEPT_NAME
from ssd_deploy.text_table import text_table
from ssd_train.datasets.dataset import Dataset, Sample, make_ground_truth
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.files import sha256_of_file
from ssd_train.json_input import shown
from ssd_train.metrics.protocol import Protocol
from ssd_train.precisions import PRECISIONS
from ssd_train.preprocess import Images
from ssd_train.spec import DetectorSpec

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One file in one backend, run here."""

    file: str
    runner: str
    changed: int
    total: int
    passed: bool
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found.

    Attributes:
        passed: no fault.
        certified: the certificate's own verdict.
        sha256: of the certificate's bytes, to be held against what who shipped it says.
        files: how many were looked at.
        faults: a sentence each.
        runs: what was run again here.
        not_run: what was not, and why, a sentence each.
    """

    passed: bool
    certified: str
    sha256: str
    files: int
    faults: tuple[str, ...]
    runs: tuple[Run, ...]
    not_run: tuple[str, ...]

    def text(self) -> str:
        """Return it for people, the verdict in the last line."""
        lines = [f"certificate: {self.certified}, SHA-256 {self.sha256}"]
        if self.runs:
            rows = [
                (run.file, run.runner, f"{run.changed} of {run.total}", "pass" if run.passed else "FAIL")
                for run in self.runs
            ]
            lines += [text_table(("file", "backend", "changed", "verdict"), rows, left=2, keys=2), ""]
        lines += [f"not run: {each}" for each in self.not_run]
        lines += [f"fault: {fault}" for fault in self.faults]
        ran = f"{self.files} files are whole, {len(self.runs)} runs here agree with the reference's answers"
        lines.append(f"PASS: {ran}" if self.passed else f"FAIL: {len(self.faults)} faults")
        return "\n".join(lines)


def verify(folder: Path, backends: Sequence[BackendChoice] | None = None) -> Verification:
    """Hold a folder to its certificate.

    Args:
        folder: as `ship` wrote it.
        backends: those to run in; None for all that work here.

    Raises:
        ModelError: it has no certificate that can be read.
    """
    certificate = read_certificate(folder)
    sha256 = sha256_of_file(folder / JSON_NAME)
    faults = _changed_files(folder, certificate)
    if certificate.verdict != PASS:
        faults.append(f"{JSON_NAME}: its own verdict is {certificate.verdict}: {shown(certificate.verdict_text)}")
    runs: list[Run] = []
    places, not_run = find_places(backends)
    broken = {fault.partition(":")[0] for fault in faults}
    samples = [sample for sample in certificate.samples if shown(sample.file) not in broken]
    models = [file for file in certificate.files if file.verdict is not None and shown(file.path) not in broken]
    if not samples:
        not_run.append("files: no images travel along, so that nothing is run again")
        models = []
    if models:
        recorded = _reference(folder, certificate)
    for file in models:
        try:
            with contextlib.ExitStack() as stack:
                options = RunOptions(batch_size=1, beside_readers=True)
                candidates = open_in_places(folder / file.path, places, options, stack, not_run)
                for candidate in candidates:
                    try:
                        runs.append(_run(*recorded, candidate, file, certificate))
                    except SSDDeployError as error:
                        faults.append(f"{file.path}: {candidate.runner.name}: {error}")
        except BackendError as error:
            not_run.append(f"{file.path}: {error}")
    faults += [f"{run.file}: {run.runner}: {run.text}" for run in runs if not run.passed]
    return Verification(
        passed=not faults,
        certified=certificate.verdict,
        sha256=sha256,
        files=len(certificate.files),
        faults=tuple(faults),
        runs=tuple(runs),
        not_run=tuple(dict.fromkeys(not_run)),
    )


def _changed_files(folder: Path, certificate: Certificate) -> list[str]:
    """Return a sentence for each file that is missing, changed, or not in the certificate."""
    faults = []
    known = set()
    for file in certificate.files:
        path = _inside(folder, file.path)
        known.add(file.path)
        if path is None:
            faults.append(f"{shown(file.path)}: leads out of the folder, and is not looked at")
        elif not path.is_file():
            faults.append(f"{shown(file.path)}: is missing")
        elif sha256_of_file(path) != file.sha256:
            faults.append(f"{shown(file.path)}: was changed, its SHA-256 is not the certificate's")
    for sample in certificate.samples:
        if sample.file not in known:
            faults.append(f"{shown(sample.file)}: is an image to verify with, but not among the certificate's files")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_own = name == JSON_NAME or name.startswith(f"{KEPT_NAME}/")
        if not is_own and name not in known and (path.is_symlink() or not path.is_dir()):
            faults.append(f"{shown(name)}: is not in the certificate")
    return faults


def _inside(folder: Path, name: str) -> Path | None:
    """Return a file of the folder by its name in the certificate; None where it would lead anywhere else."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or re.search(r"[\\\0:]", name):
        return None
    path = folder.joinpath(*parts)
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return None
    return path if is_inside else None


class Recorded:
    """PyTorch's answers of another day in the place of a runner."""

    def __init__(self, name: str, spec: DetectorSpec) -> None:
        self.max_batch_size: int | None = None
        self.name = name
        self.spec = spec

    def run(self, images: Images) -> PaddedDetections:
        raise NotImplementedError

    def run_raw(self, images: Images) -> RawPredictions:
        raise NotImplementedError

    def close(self) -> None:
        pass


def _reference(folder: Path, certificate: Certificate) -> tuple[BackendRun, Dataset]:
    """Return the reference's answers and the images that they are of."""
    detector = certificate.detector
    spec = DetectorSpec(
        network=detector.network,
        class_names=tuple(detector.class_names),
        input_size=(detector.input_size[0], detector.input_size[1]),
        postprocess=detector.postprocess,
        mean=(detector.mean[0], detector.mean[1], detector.mean[2]),
        std=(detector.std[0], detector.std[1], detector.std[2]),
        resize=detector.resize,
    )
    samples = tuple(
        Sample(
            image_id=sample.file,
            path=folder / sample.file,
            image_size=(sample.image_size[0], sample.image_size[1]),
            ground_truth=make_ground_truth([]),
        )
        for sample in certificate.samples
    )
    found = [
        Answer(boxes=each.boxes, scores=each.scores, labels=each.labels).detections() for each in certificate.samples
    ]
    dataset = Dataset(
        name="images that travel along", class_names=spec.class_names, samples=samples,
        category_ids=tuple(range(1, len(spec.class_names) + 1)),
    )  # fmt: skip
    run = BackendRun(
        runner=Recorded(certificate.reference.runner, spec), detections=found, latency_ms=math.nan, report=None
    )
    return run, dataset


def _run(reference: BackendRun, dataset: Dataset, candidate: Candidate, file: File, certificate: Certificate) -> Run:
    ran = run_backend(candidate.runner, dataset, metric=None, protocol=Protocol.STANDARD, batch_size=1, workers=2)
    limits = PRECISIONS.find(candidate.runner.spec.precision).limits
    before = [each for each in certificate.sample_changes if each.file == file.path]
    criteria = Criteria(
        score_threshold=certificate.criteria.score_threshold,
        max_changed=None if limits is None else max(limits.changed, *map(_share, before), 0.0),
    )
    comparison = compare(reference, ran, dataset, criteria, with_raw=False)
    return Run(
        file=file.path,
        runner=candidate.runner.name,
        changed=comparison.changes.changed,
        total=comparison.changes.total,
        passed=comparison.verdict.passed,
        text="; ".join(comparison.failures) or comparison.verdict.text,
    )


def _share(changes: SampleChanges) -> float:
    """Return the share that may change: what changed before and one more, since few detections are looked at."""
    return min(1.0, (changes.changed + 1) / max(changes.total, 1))
