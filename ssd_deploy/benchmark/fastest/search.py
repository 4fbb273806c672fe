"""The whole search: what there is to try on this machine, the trials, the finals."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ssd_deploy.backends import AUTO, BACKENDS, BackendChoice, RunOptions, choose_backend, open_model
from ssd_deploy.backends.base import Runner
from ssd_deploy.benchmark.fastest.candidates import Candidate, candidates, together, with_variants
from ssd_deploy.benchmark.fastest.choose import Trial, fastest, finalists, ranked
from ssd_deploy.benchmark.fastest.forms import FLOAT, Form, Made
from ssd_deploy.benchmark.fastest.losses import NOTHING, Losses
from ssd_deploy.benchmark.fastest.trials import Running, Trials
from ssd_deploy.benchmark.measure import BenchmarkSettings
from ssd_deploy.benchmark.sources import EXPORTED, device_of, open_contender
from ssd_train.errors import BackendError
from ssd_train.spec import DetectorSpec

log = logging.getLogger(__name__)

# So many of the fastest are measured once more, with other numbers of threads.
FINALISTS = 3

GPU = "cuda"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to.

    Attributes:
        spec: the detector, in float32.
        reference: what losses are counted against: a backend and where it ran.
        unit, limit: of the losses, as text.
        images: how many they were counted on.
        trials: what ran, as `choose.ranked` orders it.
        failed: what did not run, a sentence each.
        best: the one to use; None where none is allowed, so that it is the reference.
    """

    spec: DetectorSpec
    reference: str
    unit: str
    limit: str
    images: int
    trials: tuple[Trial, ...]
    failed: tuple[str, ...]
    best: Trial | None


def search(
    made: Made,
    forms: Sequence[Form],
    settings: BenchmarkSettings,
    compare_with: Callable[[Runner], Losses],
    images: Sequence[Path],
    *,
    choices: Sequence[BackendChoice] | None = None,
    device: str = "cpu",
    threads: int = 0,
    allow_tf32: bool = False,
    on_turn: Callable[[int, int], object] = lambda done, total: None,
) -> Found:
    """Find the fastest allowed form, backend, variants and threads.

    Args:
        made: makes the forms.
        forms: what may be tried; the float32 file always is.
        settings: how long each is measured; one batch size.
        compare_with: open float32 runner -> what holds others against it.
        images: files to measure with.
        choices: the backends to try, one that names no variant with each of its own; None for all.
        device: `cpu`, `cuda`, perhaps with a number, or `auto`.
        threads: of everything; 0 tries several numbers.
        on_turn: told turns done, and those in all, of the finals.

    Raises:
        BackendError: float32 itself does not run here.
        DatasetError, ImageError: there is nothing to compare on.
        KeyboardInterrupt: Ctrl-C before float32 was measured; after that, what was tried until then is reported.
    """
    device = best_device() if device == AUTO else device
    running = Running(device=device, allow_tf32=allow_tf32, batch_size=settings.batch_sizes[0])
    usual = choose_backend(EXPORTED)
    baseline = Candidate(form=FLOAT, choice=_placed(BackendChoice(backend=usual), device), threads=threads)
    stopped: tuple[str, ...] = ()
    with contextlib.ExitStack() as closing:
        float32 = open_contender(baseline.choice, made.model(FLOAT), running.options(baseline), source=str(baseline))
        closing.callback(float32.runner.close)
        with _reference(made, float32.runner, running) as reference:
            losses, name = compare_with(reference), f"{reference.name} in float32"
        trials = Trials(made, running, settings, images, float32, losses)
        log.info("%s", baseline)
        trials.start(baseline, NOTHING if reference is float32.runner else None)
        able, absent = _backends(choices, device, has_network=made.network is not None)
        try:
            _try_all(trials, [each for each in candidates(forms, able, usual, threads) if each != baseline])
            trials.finish(finalists(trials.done, FINALISTS), on_turn=on_turn)
        except KeyboardInterrupt:
            # What was found up to then is worth more than nothing.
            stopped = ("stopped by Ctrl-C or another signal: what is missing was not tried",)
        # What several things fail of is said of the first.
        first = {reason: candidate for candidate, reason in reversed(trials.failed.items())}
        failed = [f"{candidate}: {reason}" for reason, candidate in reversed(first.items())]
        return Found(
            spec=float32.runner.spec,
            reference=name,
            unit=losses.unit,
            limit=losses.limit_text,
            images=len(losses.dataset.samples),
            trials=tuple(ranked(trials.done)),
            failed=(*failed, *absent, *stopped),
            best=fastest(trials.done),
        )


def best_device() -> str:
    """Return a GPU where any backend runs on one, or else the CPU."""
    is_there = any(GPU in row.devices and row.probe(GPU).works for row in BACKENDS.values())
    return GPU if is_there else "cpu"


@contextlib.contextmanager
def _reference(made: Made, float32: Runner, running: Running) -> Iterator[Runner]:
    """Yield what losses are counted against: PyTorch where there is a network, or else the float32 file."""
    if made.network is None:
        yield float32
        return
    row = choose_backend(made.network)
    options = RunOptions(device=running.device, batch_size=running.batch_size, beside_readers=True)
    runner = open_model(row, made.network, options)
    try:
        yield runner
    finally:
        runner.close()


def _backends(
    choices: Sequence[BackendChoice] | None, device: str, *, has_network: bool
) -> tuple[list[BackendChoice], list[str]]:
    """Return the backends to try on a device, each with its variants, and a sentence for those that do not work.

    Raises:
        BackendError: one was named that does not run there, or runs no file.
    """
    kind = device.partition(":")[0]
    named = choices is not None
    able: list[BackendChoice] = []
    absent: list[str] = []
    for choice in choices if choices is not None else [BackendChoice(backend=row) for row in BACKENDS.values()]:
        row = choice.backend
        if (choice.device or device).partition(":")[0] != kind or kind not in row.devices:
            if named:
                raise BackendError(
                    f"the backend {choice} does not run on {device}, where all are tried; name another device or "
                    "leave it out",
                    arguments=("backends", "device"),
                )
            continue
        if row.runs_networks and not has_network:
            if named:
                raise BackendError(
                    f"backend {choice} runs a network, not a file; leave it out", arguments=("backends",)
                )
            continue
        finding = row.probe(kind)
        if not finding.works:
            absent.append(f"{choice}: {finding.detail}")
            continue
        able += with_variants(_placed(choice, device))
    return able, absent


def _placed(choice: BackendChoice, device: str) -> BackendChoice:
    """Return a backend on a device, which is only named where it is not the usual one."""
    where = device_of(choice, device)
    return dataclasses.replace(choice, device=None if where == choice.backend.devices[0] else where)


def _try_all(trials: Trials, waiting: Sequence[Candidate]) -> None:
    """Try all, then of each form and backend those variants together that gained alone.

    A variant that does not work with the first form that runs without it is not tried with the others.
    """
    broken: set[tuple[str, str]] = set()
    for number, candidate in enumerate(waiting, start=1):
        choice = candidate.choice
        if any((choice.backend.name, variant) in broken for variant in choice.variants):
            continue
        log.info("%d of %d: %s", number, len(waiting), candidate)
        if trials.attempt(candidate) is None:
            bare = _without_variants(candidate)
            if any(trial.candidate == bare for trial in trials.done):
                broken |= {(choice.backend.name, variant) for variant in choice.variants}
    for trial in [each for each in trials.done if not each.candidate.choice.variants]:
        alone = [
            (each.candidate.choice.variants[0], each.times_as_fast / trial.times_as_fast)
            for each in trials.done
            if each.candidate.choice.variants and _without_variants(each.candidate) == trial.candidate
        ]
        both = together(trial.candidate, alone)
        if both is not None:
            log.info("%s", both)
            trials.attempt(both)


def _without_variants(candidate: Candidate) -> Candidate:
    return dataclasses.replace(candidate, choice=dataclasses.replace(candidate.choice, variants=()))
