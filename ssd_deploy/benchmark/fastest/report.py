"""What a search found: as text with the commands that use it, as plain values for JSON."""

import dataclasses
from typing import Any

from ssd_deploy.benchmark.fastest.choose import Trial
from ssd_deploy.benchmark.fastest.search import Found
from ssd_deploy.text_table import text_table, wrapped
from ssd_train.environment import Environment

# In front of the row of the one to use.
MARK = "*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """How to make and use what was chosen, as commands and a line of Python.

    Attributes:
        making: what writes its file; empty where there is nothing to write, or no command that does.
        note: what else there is to know about the file; empty for nothing.
        kept: the file, where it was kept; None otherwise.
        using, in_python: what runs it.
    """

    making: tuple[str, ...]
    note: str
    kept: str | None
    using: str
    in_python: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastestReport:
    """A whole search.

    Attributes:
        found: what it came to.
        way: to what was chosen; None where that is the reference and no file.
        data: what losses were counted on, as text.
        notes: what was not tried and why, a sentence each.
        environment: the machine.
    """

    found: Found
    way: Way
    data: str
    notes: tuple[str, ...]
    environment: Environment

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, the fastest first; `best` is one of `trials`, or null."""
        found = self.found
        return {
            "detector": dataclasses.asdict(found.spec),
            "reference": found.reference,
            "loss_unit": found.unit,
            "loss_limit": found.limit,
            "data": self.data,
            "images": found.images,
            "best": None if found.best is None else _plain(found.best),
            "trials": [_plain(trial) for trial in found.trials],
            "failed": list(found.failed),
            "notes": list(self.notes),
            **dataclasses.asdict(self.way),
            "environment": dataclasses.asdict(self.environment),
        }

    def text(self, width: int | None = None) -> str:
        """Return the table, and below it what to type.

        Args:
            width: most characters a line; None for no limit. Commands are never broken.
        """
        found = self.found
        spec = found.spec
        head = [
            f"{spec.network}, input {spec.input_size[1]} x {spec.input_size[0]}, weights: {spec.weights}",
            f"loss: {found.unit}, against {found.reference}; {found.limit}",
            f"images: {self.data}",
            *self.environment.lines(),
        ]
        below = [
            "ms: median of a call, network with decode and NMS; times: as fast as float32 in its usual backend, "
            "measured in turns with it",
            "-: not scored, since it is slower than float32",
        ]
        below += [f"not tried: {note}" for note in self.notes]
        below += [f"does not run: {reason}" for reason in found.failed]
        lines = [*wrapped(head, width), "", _table(found, width), "", *wrapped(below, width), ""]
        return "\n".join([*lines, *wrapped([self._verdict()], width), *self._commands()])

    def _verdict(self) -> str:
        best = self.found.best
        if best is None:
            return f"fastest: {self.found.reference}, since nothing else loses as little as is allowed"
        assert best.loss is not None
        only = "" if any(each.is_allowed for each in self.found.trials if each != best) else "nothing else is allowed; "
        return (
            f"fastest: {best.candidate}: {_digits(best.ms)} ms, {best.times_as_fast:.2f} times float32's speed "
            f"({only}loss {best.loss.value:.2f}: {best.loss.text})"
        )

    def _commands(self) -> list[str]:
        way = self.way
        lines = [f"kept: {way.kept}"] if way.kept is not None else []
        lines += [f"note: {way.note}"] if way.note else []
        lines += [f"make it: {command}" for command in way.making]
        return [*lines, f"use it: {way.using}", f"in Python: {way.in_python}"]


def _table(found: Found, width: int | None) -> str:
    """The one to use is marked; what was not in the finals was measured beside float32 alone."""
    header = ["", "runs", "backend", "threads", "ms", "times", "loss", "allowed"]
    rows = []
    for trial in found.trials:
        loss = "-" if trial.loss is None else f"{trial.loss.value:.2f}"
        rows.append([
            MARK if trial == found.best else "",
            str(trial.candidate.form),
            str(trial.candidate.choice),
            _threads(trial),
            _digits(trial.ms),
            f"{trial.times_as_fast:.2f}",
            loss,
            "-" if trial.loss is None else "yes" if trial.is_allowed else "no",
        ])  # fmt: skip
    return text_table(header, rows, left=3, keys=3, width=width)


def _threads(trial: Trial) -> str:
    used = "?" if trial.threads is None else str(trial.threads)
    return used if trial.candidate.threads else f"{used} (its own)"


def _digits(value: float) -> str:
    """Three significant digits at least."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _plain(trial: Trial) -> dict[str, Any]:
    candidate = trial.candidate
    return {
        "runs": str(candidate.form),
        "precision": trial.precision,
        "steps": list(candidate.form.steps),
        "int8_target": candidate.form.target,
        "backend": str(candidate.choice),
        "runner": trial.runner,
        "threads_asked": candidate.threads,
        "threads": trial.threads,
        "ms": trial.ms,
        "float32_ms": trial.float_ms,
        "times_as_fast": trial.times_as_fast,
        "loss": None if trial.loss is None else dataclasses.asdict(trial.loss),
        "is_final": trial.is_final,
    }
