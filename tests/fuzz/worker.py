"""A process that reads inputs, one after the other, under limits; whatever an input does to it, the run goes on."""

import dataclasses
import faulthandler
import os
import pickle
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from cases import Case, Kind, Seed, make_input, table_of
from judge import Outcome, TooLong, judge

# Of memory, beyond what a worker has when it begins.
MORE_MEMORY = 2 << 30
# How much longer than it may compute an input may take.
SLEEPS = 3
# What a worker says before it reads an input.
BEGUN = "begun"


def work(connection: Connection, kinds_module: str, seeds_folder: str, root: str, longest_s: float) -> None:
    """Answer each case with its outcome until there are no more.

    Args:
        connection: gives cases, and None at the end.
        seeds_folder: has `<kind>.pickle`, the seeds of each kind.
        root: this process's folder; what an ending process says of itself stands in `<root>.txt`.
        longest_s: processor time that an input may take.
    """
    with open(f"{root}.txt", "w") as crash:
        faulthandler.enable(crash)
        try:
            _work(connection, table_of(kinds_module), Path(seeds_folder), Path(root), longest_s)
        except BaseException:  # a fault of the harness
            traceback.print_exc(file=crash)
            raise


def _work(connection: Connection, kinds: dict[str, Kind], seeds_folder: Path, root: Path, longest_s: float) -> None:
    folders = {name: root / name for name in ("data", "out", "home", "temporary", "here")}
    shutil.rmtree(root, ignore_errors=True)
    for folder in folders.values():
        folder.mkdir(parents=True)
    os.environ |= {
        # Made once: a list of fonts.
        "MPLCONFIGDIR": str(root.parent / "matplotlib"),
        # Nothing is fetched.
        "MXNET_GLUON_REPO": "http://127.0.0.1:1/",
        "HOME": str(folders["home"]),
        "TMPDIR": str(folders["temporary"]),
        "SSD_DEPLOY_CACHE": str(folders["home"] / "cache"),
        "SSD_DEPLOY_ROOT": str(folders["out"] / "weights"),
    }
    tempfile.tempdir = None
    os.chdir(folders["here"])
    # What libraries in C print would bury the report.
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    _limit_memory()
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, _too_long)
    seeds_of: dict[str, list[Seed]] = {}
    while (case := connection.recv()) is not None:
        kind = kinds[case.kind]
        if case.kind not in seeds_of:
            seeds_of[case.kind] = pickle.loads((seeds_folder / f"{case.kind}.pickle").read_bytes())
            # What imports and makes things on its first call does so now, without a limit.
            valid = Case(kind=case.kind, seed=0, steps=())
            _outcome(valid, kind, make_input(valid, kind, seeds_of[case.kind]), seeds_of[case.kind][0], folders, 0)
        seeds = seeds_of[case.kind]
        began = time.process_time()
        data = make_input(case, kind, seeds)
        connection.send(BEGUN)
        outcome = _outcome(case, kind, data, seeds[case.seed], folders, longest_s)
        connection.send(dataclasses.replace(outcome, cpu_s=time.process_time() - began))


def _outcome(case: Case, kind: Kind, data: bytes, seed: Seed, folders: dict[str, Path], longest_s: float) -> Outcome:
    folder = folders["data"] / f"{kind.name}-{case.seed}"
    if not folder.exists():
        _write(folder, seed.files)
    path = folder / seed.target
    path.write_bytes(data)
    own = None if kind.rewrites else folder
    before = _listing(folders, own)
    error: BaseException | None = None
    # Processor time, since other processes may have most of the machine; and a longer wait for what sleeps.
    signal.setitimer(signal.ITIMER_PROF, longest_s)
    signal.setitimer(signal.ITIMER_REAL, SLEEPS * longest_s)
    try:
        kind.read(folder, path, folders["out"])
    except BaseException as caught:
        error = caught
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        outcome = judge(error)
        left = sorted(_listing(folders, own) ^ before)
        if left and outcome.result != "failed":
            return Outcome(result="failed", what="FilesLeft", where=", ".join(left[:3]))
        return outcome
    finally:
        for name in ("out", "home", "temporary", "here"):
            for entry in list(os.scandir(folders[name])):
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        if kind.rewrites or _listing(folders, own) != before:
            shutil.rmtree(folder)


def _listing(folders: Mapping[str, Path], own: Path | None) -> set[str]:
    """Return all there is beside results, which are the reader's own: what an input made, or took away."""
    found = {f"{folders['data']}/{name}" for name in os.listdir(folders["data"])}
    for folder in (*([own] if own else []), *(folders[name] for name in ("home", "temporary", "here"))):
        for parent, _, files in os.walk(folder):
            found |= {parent, *(f"{parent}/{file}" for file in files)}
    return found


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _limit_memory() -> None:
    """Of what a process may write to: the space that libraries reserve to map files in does not count."""
    with open("/proc/self/status") as file:
        used = next(int(line.split()[1]) for line in file if line.startswith("VmData"))
    limit = used * 1024 + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _too_long(signal_number: int, frame: object) -> None:
    raise TooLong
