"""Which of what was tried is the fastest that may be used?"""

import dataclasses
from collections.abc import Sequence

from ssd_deploy.benchmark.fastest.candidates import Candidate
from ssd_deploy.benchmark.fastest.losses import Loss

# Times of one thing differ by so much from run to run; of what is this close the simplest is taken.
MARGIN = 0.03


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate that ran.

    Attributes:
        candidate: see there.
        runner: where it really ran.
        precision: what it computed in.
        threads: CPU threads that it computed with; None where that is not known.
        ms: median of a call for one image: network, decode, NMS.
        float_ms: that of float32 as it usually runs, measured in turns with it.
        loss: None where it was not scored, since it is slower than float32.
        is_final: measured with the other fastest ones in turns.
    """

    candidate: Candidate
    runner: str
    precision: str
    threads: int | None
    ms: float
    float_ms: float
    loss: Loss | None
    is_final: bool = False

    @property
    def times_as_fast(self) -> float:
        return self.float_ms / self.ms

    @property
    def is_allowed(self) -> bool:
        return self.loss is not None and self.loss.is_allowed


def finalists(trials: Sequence[Trial], most: int) -> list[Trial]:
    """Return the fastest that are allowed."""
    return _by_speed([trial for trial in trials if trial.is_allowed])[:most]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return all, the fastest first; those of the finals, whose times were taken together, before the others."""
    return sorted(_by_speed(trials), key=lambda trial: not trial.is_final)


def fastest(trials: Sequence[Trial]) -> Trial | None:
    """Return the one to use, of the finals where there were any; None where none is allowed.

    Of those that are within `MARGIN` of the fastest it is the one that takes the least to make and to ask for.
    """
    last_round = any(trial.is_final for trial in trials)
    able = finalists([trial for trial in trials if trial.is_final == last_round], len(trials))
    close = [trial for trial in able if trial.times_as_fast * (1 + MARGIN) >= able[0].times_as_fast]
    return min(close, key=lambda trial: trial.candidate.effort, default=None)


def _by_speed(trials: Sequence[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: -trial.times_as_fast)
