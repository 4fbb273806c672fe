"""Reads changed files of every kind that the product reads, and says what it could not stand.

    python tests/fuzz/run_fuzz.py --count 10000

An input is read, refused in one sentence, or a failure: another error, a crash, a hang, more memory than there is, a
file left behind. Each failure is made smaller and kept in a folder, with the case that makes it again.
"""

import argparse
import collections
import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

PACKAGES = ("ssd_train", "export", "ssd_deploy")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from cases import Case, Kind, Seed, make_cases, make_input, table_of  # noqa: E402
from judge import Outcome  # noqa: E402
from worker import BEGUN, SLEEPS, work  # noqa: E402

# Processor time that an input may take.
LONGEST_S = 10.0
# A worker whose alarms do not end a read, in C for instance, is killed after so many times that.
KILLED_AFTER = 2 * SLEEPS
# One that has to begin with imports, on a busy machine.
STARTED_AFTER_S = 300
# Tries to make a failure smaller.
MOST_TRIES = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """A failure, and the smallest case of it that was found."""

    case: Case
    outcome: Outcome

    @property
    def signature(self) -> tuple[str, str, str]:
        return self.case.kind, self.outcome.what, self.outcome.where


@dataclasses.dataclass(kw_only=True)
class Counts:
    """Of a kind's inputs."""

    read: int = 0
    refused: int = 0
    failed: int = 0
    cpu_s: float = 0.0

    @property
    def inputs(self) -> int:
        return self.read + self.refused + self.failed


@dataclasses.dataclass(kw_only=True)
class Report:
    """What came of a run."""

    counts: dict[str, Counts]
    failures: dict[tuple[str, str, str], Failure]
    times: collections.Counter[tuple[str, str, str]]

    def lines(self) -> list[str]:
        """Return the table, as Markdown."""
        rows = [
            (name, counts.inputs, counts.read, counts.refused, counts.failed) for name, counts in self.counts.items()
        ]
        rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
        lines = ["| kind | inputs | read | refused | failed |", "|---|---:|---:|---:|---:|"]
        return lines + [
            f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else cell for cell in row)} |" for row in rows
        ]


class Worker:
    """A process, its end of a pipe, and what it is at."""

    def __init__(self, context: Any, kinds_module: str, seeds_folder: Path, root: Path, longest_s: float) -> None:
        self._make = lambda: self._start(context, kinds_module, seeds_folder)
        self.root, self.longest_s = root, longest_s
        self.case: Case | None = None
        self.began, self.limit_s = 0.0, 0.0
        self._make()

    def _start(self, context: Any, kinds_module: str, seeds_folder: Path) -> None:
        self.connection, theirs = context.Pipe()
        arguments = (theirs, kinds_module, str(seeds_folder), str(self.root), self.longest_s)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def give(self, case: Case) -> None:
        self.case, self.began, self.limit_s = case, time.monotonic(), STARTED_AFTER_S
        self.connection.send(case)

    def answer(self) -> Outcome | None:
        """Return the outcome of its case; None while it is still at it. One that died or hangs is replaced."""
        assert self.case is not None
        hangs = time.monotonic() - self.began > self.limit_s
        if not hangs and not self.connection.poll():
            return None
        if not hangs:
            with contextlib.suppress(EOFError, ConnectionError):
                found = self.connection.recv()
                if found != BEGUN:
                    return found
                self.began, self.limit_s = time.monotonic(), KILLED_AFTER * self.longest_s
                return None
        self.process.join(0 if hangs else 2)
        self.process.kill()
        self.process.join()
        with contextlib.suppress(OSError):
            self.connection.close()
        trace = Path(f"{self.root}.txt").read_text(errors="replace")
        what = "Hang" if hangs else f"Crash{-(self.process.exitcode or 0)}"
        self._make()
        return Outcome(result="failed", what=what, where=_first_frame(trace), trace=trace)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()


def _first_frame(trace: str) -> str:
    """Return the innermost line of this project that a crash names."""
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith('File "')]
    ours = [line for line in lines if "site-packages" not in line and any(f"/{name}/" in line for name in PACKAGES)]
    return (ours or lines or [""])[0].removeprefix("File ").replace('", line ', ":").strip('"')


def run(
    kinds_module: str,
    *,
    count: int,
    seed: int,
    only: Sequence[str] = (),
    jobs: int = 2,
    longest_s: float = LONGEST_S,
    most_tries: int = MOST_TRIES,
    show: Callable[[Failure], None] | None = None,
) -> tuple[Report, dict[tuple[str, str, str], bytes]]:
    """Read `count` inputs of a table of kinds.

    Args:
        kinds_module: module whose `KINDS` is the table.
        only: names of rows; none for all.
        jobs: processes.
        longest_s: processor time that an input may take.
        most_tries: to make a failure smaller.
        show: called with each new failure.

    Returns:
        The report, and the input of each failure.
    """
    table = table_of(kinds_module)
    unknown = sorted(set(only) - set(table))
    if unknown:
        sys.exit(f"no such kind: {', '.join(unknown)}; there are {', '.join(table)}")
    kinds = [kind for name, kind in table.items() if not only or name in only]
    report = Report(counts={kind.name: Counts() for kind in kinds}, failures={}, times=collections.Counter())
    inputs: dict[tuple[str, str, str], bytes] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        seeds = make_seeds(kinds, Path(folder))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["worker", kinds_module])
        roots = [Path(folder) / f"worker{number}" for number in range(jobs)]
        workers = [Worker(context, kinds_module, Path(folder), root, longest_s) for root in roots]
        try:
            for case, outcome in _answers(workers, _cases(kinds, count, seeds, seed)):
                counts = report.counts[case.kind]
                if not case.steps and outcome.result != "failed":
                    if (outcome.result == "refused") != seeds[case.kind][case.seed].is_refused:
                        raise AssertionError(
                            f"{case} is a file as it should be, and was {outcome.result}: {outcome.what}"
                        )
                    continue
                counts.cpu_s += outcome.cpu_s
                setattr(counts, outcome.result, getattr(counts, outcome.result) + 1)
                if outcome.result != "failed":
                    continue
                failure = Failure(case=case, outcome=outcome)
                report.times[failure.signature] += 1
                if failure.signature not in report.failures:
                    report.failures[failure.signature] = failure
                    if show:
                        show(failure)
            for signature, failure in report.failures.items():
                smaller = make_smaller(
                    failure, workers[0], table[failure.case.kind], seeds[failure.case.kind], most_tries
                )
                report.failures[signature] = smaller
                inputs[signature] = make_input(smaller.case, table[smaller.case.kind], seeds[smaller.case.kind])
        finally:
            for worker in workers:
                worker.end()
    return report, inputs


def make_seeds(kinds: Iterable[Kind], folder: Path) -> dict[str, Sequence[Seed]]:
    """Write the valid files of each kind for the workers, and return them."""
    seeds = {}
    for kind in kinds:
        with tempfile.TemporaryDirectory() as scratch:
            seeds[kind.name] = list(kind.seeds(Path(scratch)))
        (folder / f"{kind.name}.pickle").write_bytes(pickle.dumps(seeds[kind.name]))
    return seeds


def _cases(kinds: Sequence[Kind], count: int, seeds: dict[str, Sequence[Seed]], seed: int) -> Iterator[Case]:
    """Yield all cases, kind after kind, the valid files first."""
    for kind in kinds:
        yield from (Case(kind=kind.name, seed=place, steps=()) for place in range(len(seeds[kind.name])))
    whole, done = sum(kind.weight for kind in kinds), 0.0
    for kind in kinds:
        before, done = done, done + kind.weight
        yield from make_cases(
            kind.name, round(count * done / whole) - round(count * before / whole), len(seeds[kind.name]), seed
        )


def _answers(workers: Sequence[Worker], cases: Iterator[Case]) -> Iterator[tuple[Case, Outcome]]:
    """Give cases to the workers that are free, and yield what they answer."""
    waiting = [worker for worker in workers if _next(worker, cases)]
    while waiting:
        ready: list[Connection] = [worker.connection for worker in waiting]
        wait(ready, timeout=1)
        for worker in list(waiting):
            outcome = worker.answer()
            if outcome is not None:
                assert worker.case is not None
                yield worker.case, outcome
                if not _next(worker, cases):
                    waiting.remove(worker)


def _next(worker: Worker, cases: Iterator[Case]) -> bool:
    case = next(cases, None)
    if case is not None:
        worker.give(case)
    return case is not None


def make_smaller(failure: Failure, worker: Worker, kind: Kind, seeds: Sequence[Seed], most_tries: int) -> Failure:
    """Leave out changes, and then bytes from the end, as long as it fails in the same way."""
    best, tries = failure, 0

    def still_fails(case: Case) -> bool:
        nonlocal best, tries
        tries += 1
        ((_, outcome),) = _answers([worker], iter([case]))
        found = Failure(case=case, outcome=outcome)
        if outcome.result != "failed" or found.signature != failure.signature:
            return False
        best = found
        return True

    if failure.outcome.what == "Hang" or not still_fails(failure.case):
        return failure
    for step in failure.case.steps:
        steps = tuple(other for other in best.case.steps if other != step)
        if steps:
            still_fails(dataclasses.replace(best.case, steps=steps))
    size = len(make_input(best.case, kind, seeds))
    less = size // 2
    while less and tries < most_tries:
        if still_fails(dataclasses.replace(best.case, size=size - less)):
            size -= less
        else:
            less //= 2
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=1, help="decides every input")
    parser.add_argument("--kinds", default="", help="names of kinds with commas between; all without it")
    parser.add_argument("--out", type=Path, default=Path(".fuzz"), help="folder of the inputs that fail")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    began = time.monotonic()

    def show(failure: Failure) -> None:
        print(*failure.signature, failure.case.steps, sep="  ", file=sys.stderr, flush=True)

    only = [name for name in options.kinds.split(",") if name]
    report, inputs = run("kinds", count=options.count, seed=options.seed, only=only, jobs=options.jobs, show=show)
    for number, (signature, failure) in enumerate(report.failures.items(), start=1):
        keep(options.out, number, failure, inputs[signature], report.times[signature])
    print(*report.lines(), sep="\n")
    print(f"\nseed {options.seed}, {options.jobs} processes, {time.monotonic() - began:.0f} s")
    slow = sorted(report.counts.items(), key=lambda item: -item[1].cpu_s)[:6]
    most = ", ".join(f"{name} {each.cpu_s:.0f} s" for name, each in slow)
    print(f"processor time {sum(each.cpu_s for each in report.counts.values()):.0f} s, most of it {most}")
    if report.failures:
        print(f"{len(report.failures)} kinds of failures; each has an input in {options.out}")
    return 1 if report.failures else 0


def keep(folder: Path, number: int, failure: Failure, data: bytes, times: int) -> None:
    """Write a failure's input and all that is known of it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{failure.case.kind}-{number}"
    (folder / f"{name}.input").write_bytes(data)
    heading = f"{failure.signature}, {times} times\n{failure.case}\n\n"
    (folder / f"{name}.txt").write_text(heading + failure.outcome.trace, errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
