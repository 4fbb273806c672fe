"""What is tried: a form in a backend with its variants, made of the tables of forms and backends."""

import dataclasses
from collections.abc import Sequence

import psutil

from ssd_deploy.backends import Backend, BackendChoice
from ssd_deploy.benchmark.fastest.forms import Form
from ssd_train.cpus import available_cpus


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of them.

    Attributes:
        form: what runs.
        choice: in which backend, where, with which variants.
        threads: CPU threads; 0 for the backend's own number.
    """

    form: Form
    choice: BackendChoice
    threads: int = 0

    def __str__(self) -> str:
        threads = f" with {self.threads} thread{'s' if self.threads > 1 else ''}" if self.threads else ""
        return f"{self.form} in {self.choice}{threads}"

    @property
    def answer(self) -> tuple[Form, BackendChoice]:
        """What decides the detections: neither threads nor steps that change no bit."""
        return self.form.answers_as, self.choice

    @property
    def effort(self) -> tuple[int, int]:
        """How much there is to ask for, first for the file and then for the run: less is simpler to use."""
        return len(self.form.steps), len(self.choice.variants) + bool(self.threads)


def candidates(
    forms: Sequence[Form], choices: Sequence[BackendChoice], usual: Backend, threads: int = 0
) -> list[Candidate]:
    """Return all that is worth a trial, backend by backend, what needs no variant first.

    Args:
        choices: backends, each with its variants; see `with_variants`.
        usual: the backend of exported files, the only one for what has operators of its own.
        threads: of all of them.
    """
    return [
        Candidate(form=form, choice=choice, threads=threads)
        for choice in choices
        for form in forms
        if _fits(form, choice, usual)
    ]


def with_variants(choice: BackendChoice) -> list[BackendChoice]:
    """Return a backend as it is and with each variant alone that may gain; one that names some is taken at its word."""
    if choice.variants:
        return [choice]
    row = choice.backend
    may_gain = [variant for variant in row.variants if variant not in row.off_switches]
    return [choice, *(dataclasses.replace(choice, variants=(variant,)) for variant in may_gain)]


def _fits(form: Form, choice: BackendChoice, usual: Backend) -> bool:
    row = choice.backend
    if form.is_network != row.runs_networks or not (form.is_network or ".onnx" in row.suffixes):
        return False
    # Only float32 is computed in another precision.
    is_computed = any(variant in row.precisions for variant in choice.variants)
    return (row == usual or form.is_standard) and (form.precision == "fp32" or not is_computed)


def together(bare: Candidate, gains: Sequence[tuple[str, float]]) -> Candidate | None:
    """Return a candidate with all variants that gained something alone, if there are two or more.

    Args:
        bare: without variants.
        gains: variant, and how many times as fast it was alone; of those that are precisions one alone can be had.
    """
    helpful = {variant: gain for variant, gain in gains if gain > 1}
    row = bare.choice.backend
    of_precision = sorted(set(row.precisions) & helpful.keys(), key=lambda variant: -helpful[variant])
    taken = tuple(variant for variant in row.variants if variant in helpful and variant not in of_precision[1:])
    if len(taken) < 2:
        return None
    return dataclasses.replace(bare, choice=dataclasses.replace(bare.choice, variants=taken))


def other_threads(used: int | None) -> list[int]:
    """Return numbers of threads that are worth a trial: one, a thread a core, one for all that the process may use.

    Args:
        used: the number that was measured already.
    """
    cpus = available_cpus()
    numbers = {1, min(psutil.cpu_count(logical=False) or cpus, cpus), cpus}
    return sorted(numbers - {used})
