"""One candidate after the other, each measured in turns with float32 and held against the reference."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ssd_deploy.backends import BackendChoice, RunOptions
from ssd_deploy.benchmark.fastest.candidates import Candidate, other_threads
from ssd_deploy.benchmark.fastest.choose import Trial
from ssd_deploy.benchmark.fastest.forms import Form, Made
from ssd_deploy.benchmark.fastest.losses import Loss, Losses
from ssd_deploy.benchmark.measure import BenchmarkSettings, Contender, measure, timed_calls
from ssd_deploy.benchmark.measurements import Measurement
from ssd_deploy.benchmark.sources import device_of, open_contender
from ssd_train.errors import BackendError, SSDDeployError, first_line
from ssd_train.preprocess import Images, load_image, preprocess
from ssd_train.spec import DetectorSpec

log = logging.getLogger(__name__)

# What takes so many times as long as float32 in its second call is not called often enough to measure it well.
FAR_SLOWER = 3.0

# What is slower than float32 by more than times differ from run to run is of no use, whatever it loses.
WORTH_SCORING = 0.97


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """How everything runs: device, `cpu` or a GPU with its number perhaps, and whether a GPU may round to TF32."""

    device: str
    allow_tf32: bool
    batch_size: int

    def options(self, candidate: Candidate) -> RunOptions:
        return RunOptions(
            device=device_of(candidate.choice, self.device),
            variants=candidate.choice.variants,
            batch_size=self.batch_size,
            allow_tf32=self.allow_tf32,
            threads=candidate.threads,
        )


class Trials:
    """Tries candidates; whatever does not work is noted and costs only itself.

    Args:
        made: their networks and files.
        running: how they run.
        settings: how long each is measured; one batch size.
        images: files to measure with.
        float32: open, the detector in float32 as it usually runs, that each is measured in turns with.
        losses: holds them against the reference.

    Attributes:
        done: those that ran.
        failed: candidate -> why it did not.
    """

    def __init__(
        self,
        made: Made,
        running: Running,
        settings: BenchmarkSettings,
        images: Sequence[Path],
        float32: Contender,
        losses: Losses,
    ) -> None:
        self.done: list[Trial] = []
        self.failed: dict[Candidate, str] = {}
        self._made = made
        self._running = running
        self._settings = settings
        self._images = images
        self._float32 = float32
        self._losses = losses
        self._known: dict[tuple[Form, BackendChoice], Loss] = {}

    def start(self, candidate: Candidate, loss: Loss | None) -> None:
        """Measure float32 itself, which `candidate` stands for; `loss` is what is known of it already."""
        (row,) = measure([self._float32], self._images, self._settings).rows
        loss = loss or self._losses.of(self._float32.runner)
        self._add(_trial(candidate, row, row, loss))

    def attempt(self, candidate: Candidate) -> Trial | None:
        """Measure a candidate, and score it where that may matter; None where it does not run."""
        with self._noting(candidate), self._opened(candidate) as contender:
            row, float_row = self._in_turns(contender)
            trial = _trial(candidate, row, float_row, self._known.get(candidate.answer))
            if trial.loss is None and trial.times_as_fast >= WORTH_SCORING:
                trial = dataclasses.replace(trial, loss=self._losses.of(contender.runner))
            return self._add(trial)
        return None

    def finish(self, trials: Sequence[Trial], *, on_turn: Callable[[int, int], object]) -> None:
        """Measure some together in turns, each with other numbers of threads too; that replaces what was measured."""
        baseline = self.done[0].candidate
        with contextlib.ExitStack() as closing:
            # Float32 takes part anyway.
            taking_part = [(baseline, self._float32)]
            for trial in trials:
                for candidate in (trial.candidate, *_other_candidates(trial, self._running.device)):
                    if candidate == baseline:
                        continue
                    with self._noting(candidate):
                        taking_part.append((candidate, closing.enter_context(self._opened(candidate))))
            contenders = [contender for _, contender in taking_part]
            log.info("the fastest once more, in turns: %s", "; ".join(str(candidate) for candidate, _ in taking_part))
            measured = measure(contenders, self._images, self._settings, on_turn=on_turn)
        if len(measured.rows) < len(contenders):
            # Which of them stopped is only told in words; what was measured before stays.
            log.warning("that is left out: %s", "; ".join(measured.skipped))
            return
        again = [candidate for candidate, _ in taking_part]
        self.done = [trial for trial in self.done if trial.candidate not in again]
        for candidate, row in zip(again, measured.rows, strict=True):
            trial = _trial(candidate, row, measured.rows[0], self._known[candidate.answer])
            self.done.append(dataclasses.replace(trial, is_final=True))

    def _add(self, trial: Trial) -> Trial:
        if trial.loss is not None:
            self._known[trial.candidate.answer] = trial.loss
        self.done.append(trial)
        lost = "" if trial.loss is None else f", {trial.loss.value:.2f} {self._losses.unit}"
        allowed = "" if trial.loss is None or trial.is_allowed else ": too much"
        log.info("  %.3g ms, %.2f times float32's speed%s%s", trial.ms, trial.times_as_fast, lost, allowed)
        return trial

    @contextlib.contextmanager
    def _noting(self, candidate: Candidate) -> Iterator[None]:
        """Within the block, note why a candidate does not work."""
        try:
            yield
        except SSDDeployError as error:
            self.failed[candidate] = self._made.named_shortly(str(error))
        except Exception as error:  # libraries' exceptions share no narrower base, and the others are to go on
            self.failed[candidate] = first_line(error)
        if candidate in self.failed:
            log.info("  %s does not run: %s", candidate, self.failed[candidate])

    @contextlib.contextmanager
    def _opened(self, candidate: Candidate) -> Iterator[Contender]:
        contender = open_contender(
            candidate.choice, self._made.model(candidate.form), self._running.options(candidate), source=str(candidate)
        )
        try:
            yield contender
        finally:
            contender.runner.close()

    def _in_turns(self, contender: Contender) -> tuple[Measurement, Measurement]:
        """Return the times of a candidate and of float32.

        Raises:
            BackendError: it does not run, or takes so long that its time does not matter.
        """
        batch = _batch(self._images[0], contender.runner.spec, self._running.batch_size)
        once = timed_calls(functools.partial(contender.runner.run, batch), 2)[-1]
        usual = self.done[0].ms
        if once > FAR_SLOWER * usual:
            raise BackendError(f"{once:.3g} ms in its second call, where float32 takes {usual:.3g}: left out")
        measured = measure([self._float32, contender], self._images, self._settings)
        if len(measured.rows) < 2:
            raise BackendError("; ".join(measured.skipped))
        float_row, row = measured.rows
        return row, float_row


def _trial(candidate: Candidate, row: Measurement, float_row: Measurement, loss: Loss | None) -> Trial:
    return Trial(
        candidate=candidate,
        runner=row.runner,
        precision=row.precision,
        threads=row.threads,
        ms=row.network.p50,
        float_ms=float_row.network.p50,
        loss=loss,
    )


def _other_candidates(trial: Trial, device: str) -> list[Candidate]:
    """Return a candidate with other numbers of threads, where they are the backend's own.

    PyTorch knows one number for the whole process, so that one runner cannot have another beside it.
    """
    if device != "cpu" or trial.candidate.threads or trial.candidate.form.is_network:
        return []
    return [dataclasses.replace(trial.candidate, threads=number) for number in other_threads(trial.threads)]


def _batch(image: Path, spec: DetectorSpec, size: int) -> Images:
    return np.stack([preprocess(load_image(image), spec)] * size)
