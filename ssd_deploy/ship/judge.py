"""Every file against PyTorch: the comparison of `parity`, a file a stage."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssd_deploy.backends import BACKENDS, BackendChoice, RunOptions
from ssd_deploy.backends.base import Runner
from ssd_deploy.benchmark.fastest.losses import Loss, loss_of
from ssd_deploy.parity.changed_pictures import changed_pictures
from ssd_deploy.parity.compare import (
    BackendRun,
    Comparison,
    check_something_found,
    compare,
    run_backend,
    working_threshold,
)
from ssd_deploy.parity.criteria import Criteria
from ssd_deploy.parity.pairs import count_changes, find_changes
from ssd_deploy.parity.run import Candidate, Place, ShowProgress, no_progress, open_in_places
from ssd_deploy.ship.certificate import FAIL, PASS, Check, Stage, Verdict
from ssd_deploy.ship.files import Model
from ssd_deploy.ship.images import Answer, choose_samples, plain
from ssd_deploy.ship.stages import Stages, name_in
from ssd_train.datasets.dataset import Dataset
from ssd_train.errors import BackendError, ModelError
from ssd_train.evaluation.evaluate import EvaluationReport, has_objects, score
from ssd_train.files import sha256_of_file
from ssd_train.json_input import convert
from ssd_train.metrics.protocol import Protocol
from ssd_train.report.pictures import jpeg_uri

# Everything is scored and timed picture by picture, which every backend takes.
BATCH_SIZE = 1

# Of one file in one backend, and how large: both sides together, inside the page.
PICTURES = 3
PICTURE_WIDTH, PICTURE_HEIGHT = 640, 420
# How many changes a caption names.
NAMED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """An image with changed detections.

    Attributes:
        uri: the picture, both sides, as a data URI.
        caption: what changed.
    """

    uri: str
    caption: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """One file in one backend.

    Attributes:
        check: for the certificate.
        loss: what it costs, for the choice of the fastest.
        device, variants: of the backend.
        samples_changed, samples_total: of the detections in the samples.
        pictures: those with the most changes.
    """

    check: Check
    loss: Loss
    device: str
    variants: tuple[str, ...]
    samples_changed: int
    samples_total: int
    pictures: tuple[Picture, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedFile:
    """One file in every backend that takes it here; `not_run` says of the others why."""

    judged: list[Judged]
    not_run: list[str]


class Judge:
    """Holds files against a reference over the same images, each in a stage that is kept.

    Args:
        reference: float32 PyTorch, open.
        dataset: the images.
        data: a hash of them.
        metric: scores them, where they have ground truth.
        places: the backends, see `parity.run.find_places`.
        samples: how many images travel along.
        allow_tf32: let a GPU round.

    Raises:
        DatasetError: the reference finds nothing, so that nothing could be compared.
    """

    def __init__(
        self,
        reference: Runner,
        dataset: Dataset,
        data: str,
        stages: Stages,
        *,
        metric: str | None,
        protocol: Protocol,
        criteria: Criteria,
        places: Sequence[Place],
        samples: int,
        workers: int = 2,
        allow_tf32: bool = False,
        show_progress: ShowProgress = no_progress,
    ) -> None:
        self.dataset = dataset
        self.metric = metric if has_objects(dataset.samples) else None
        self._protocol = protocol
        self._workers = workers
        self._show_progress: Callable[..., Any] = show_progress
        self._stages = stages
        self._places = places
        self._allow_tf32 = allow_tf32
        self.threshold = working_threshold(reference, criteria)
        self.criteria = dataclasses.replace(criteria, score_threshold=self.threshold)
        detector = dataclasses.asdict(reference.spec)
        self._inputs = [data, detector, reference.name]
        answers = stages.run(
            f"reference {reference.name}", self._inputs, lambda: ({"found": plain(self._run(reference).detections)}, [])
        )
        found = [answer.detections() for answer in convert(answers["found"], list[Answer])]
        self.reference = BackendRun(
            runner=reference, detections=found, latency_ms=float("nan"), report=self._score(reference, found)
        )
        check_something_found(self.reference, dataset, self.threshold)
        self.samples = choose_samples(found, self.threshold, samples)

    def judge(self, model: Model) -> JudgedFile:
        """Run a file in every backend that takes it, and compare each with the reference.

        Raises:
            BackendError: nothing runs it here.
        """
        name = name_in(model.path, self._stages.folder)
        inputs = [
            *self._inputs, sha256_of_file(model.path), dataclasses.asdict(self.criteria), self.metric,
            self._protocol.value, len(self.samples), self._allow_tf32, [place.name for place in self._places],
        ]  # fmt: skip

        def work() -> tuple[dict[str, Any], Sequence[Path]]:
            not_run: list[str] = []
            options = RunOptions(batch_size=BATCH_SIZE, allow_tf32=self._allow_tf32, beside_readers=True, with_raw=True)
            with contextlib.ExitStack() as stack:
                candidates = open_in_places(model.path, self._places, options, stack, not_run)
                judged = [dataclasses.asdict(self._judge(name, candidate)) for candidate in candidates]
            return {"judged": judged, "not_run": not_run}, []

        found: JudgedFile = convert(self._stages.run(f"compare {name}", inputs, work), JudgedFile)
        return found

    def _judge(self, name: str, candidate: Candidate) -> Judged:
        try:
            return self._compared(name, candidate)
        except (BackendError, ModelError) as error:
            # It was opened: what answers with something that is no detections, or with none, has failed.
            return _broken(name, candidate, str(error))

    def _compared(self, name: str, candidate: Candidate) -> Judged:
        run = self._run(candidate.runner)
        comparison = compare(
            self.reference, run, self.dataset, self.criteria, batch_size=BATCH_SIZE, with_raw=candidate.has_raw
        )
        of_samples = count_changes(
            [self.reference.detections[number] for number in self.samples],
            [run.detections[number] for number in self.samples],
            self.threshold,
        )
        return Judged(
            check=_check(name, candidate.place, comparison, self.metric is not None),
            loss=loss_of(comparison, self.metric, self.criteria),
            device=candidate.place.device,
            variants=candidate.place.variants,
            samples_changed=of_samples.changed,
            samples_total=of_samples.total,
            pictures=tuple(self._pictures(run)),
        )

    def _run(self, runner: Runner) -> BackendRun:
        with self._show_progress(f"{runner.name}, {runner.spec.precision}", len(self.dataset.samples)) as on_progress:
            return run_backend(
                runner, self.dataset, metric=self.metric, protocol=self._protocol, batch_size=BATCH_SIZE,
                workers=self._workers, on_progress=on_progress,
            )  # fmt: skip

    def _score(self, runner: Runner, found: Sequence[Any]) -> EvaluationReport | None:
        if self.metric is None:
            return None
        return score(self.dataset, found, runner.spec, metric=self.metric, protocol=self._protocol)

    def _pictures(self, run: BackendRun) -> Sequence[Picture]:
        ours, theirs = self.reference.detections, run.detections
        changes = [find_changes(a, b, self.threshold) for a, b in zip(ours, theirs, strict=True)]
        found = changed_pictures(self.dataset.samples, ours, theirs, changes, self.dataset.class_names, PICTURES)
        return [
            Picture(
                uri=jpeg_uri(each.picture, PICTURE_WIDTH, PICTURE_HEIGHT),
                caption=f"{each.sample.path.name}: {'; '.join(each.texts[:NAMED])}"
                + (f"; and {len(each.texts) - NAMED} more" if len(each.texts) > NAMED else ""),
            )
            for each in found
        ]


def reference_check(run: BackendRun, choice: BackendChoice) -> Check:
    """Return the reference's own row."""
    return _uncompared(
        file="",
        backend=choice,
        runner=run.runner,
        metric=None if run.report is None else run.report.headline,
        verdict=PASS,
        text="the reference",
    )


def _uncompared(
    *, file: str, backend: BackendChoice, runner: Runner, metric: float | None, verdict: Verdict, text: str
) -> Check:
    """Return a row that was held against nothing."""
    return Check(
        file=file,
        backend=str(backend),
        runner=runner.name,
        precision=runner.spec.precision,
        metric=metric,
        lost=None,
        changed=0,
        total=0,
        agreement=None,
        score_difference=0.0,
        box_difference=0.0,
        stages=[],
        verdict=verdict,
        text=text,
    )


def _broken(name: str, candidate: Candidate, why: str) -> Judged:
    """Return what is known of a file that did not answer with detections."""
    place = candidate.place
    return Judged(
        check=_uncompared(
            file=name,
            backend=choice_of(place.backend.name, place.device, place.variants),
            runner=candidate.runner,
            metric=None,
            verdict=FAIL,
            text=why,
        ),
        loss=Loss(value=100.0, is_allowed=False, text=why),
        device=place.device,
        variants=place.variants,
        samples_changed=0,
        samples_total=0,
        pictures=(),
    )


def _check(name: str, place: Place, comparison: Comparison, is_scored: bool) -> Check:
    verdict = comparison.verdict
    return Check(
        file=name,
        backend=str(choice_of(place.backend.name, place.device, place.variants)),
        runner=comparison.backend,
        precision=comparison.precision,
        metric=comparison.metric if is_scored else None,
        lost=0 - 100 * comparison.metric_difference if is_scored else None,
        changed=comparison.changes.changed,
        total=comparison.changes.total,
        agreement=comparison.agreement,
        score_difference=comparison.score_difference,
        box_difference=comparison.box_difference,
        stages=[Stage(**stage.to_dict()) for stage in comparison.stages],
        verdict=PASS if verdict.passed else FAIL,
        text="; ".join(comparison.failures) or verdict.text,
    )


def choice_of(backend: str, device: str, variants: Sequence[str]) -> BackendChoice:
    """Return a backend as `--backend` takes it; its usual device goes without saying."""
    row = BACKENDS.find(backend)
    return BackendChoice(backend=row, device=None if device == row.devices[0] else device, variants=tuple(variants))
