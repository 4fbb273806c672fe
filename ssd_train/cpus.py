"""How many CPUs this process may use, and how many threads the libraries take for an operator.

A container's limit is a quota of CPU time. Libraries see all cores in spite of it, start a thread for each, and are
then stopped most of the time. ONNX Runtime does so with `taskset` too, and binds threads to cores outside the set.
"""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ssd_train.errors import BackendError
from ssd_train.options import option

# What libraries read when they are loaded: PyTorch and whatever uses OpenMP the first one, OpenCV the second one.
OPENMP_VARIABLE = "OMP_NUM_THREADS"
_VARIABLES = (OPENMP_VARIABLE, "OPENCV_FOR_THREADS_NUM")
# Once it is loaded: module, and its functions that tell and set the number, for the whole process.
_LOADED = (("torch", "get_num_threads", "set_num_threads"), ("cv2", "getNumThreads", "setNumThreads"))

THREADS_HELP = (
    "CPU threads of an operator of the network, and of OpenCV; 0: each library's own number, or OMP_NUM_THREADS, or "
    "a container's CPUs."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computing:
    """What every command that computes can be told."""

    threads: int = option(0, THREADS_HELP, least=0)


def available_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs' time this process may use, at least 1.

    The least of the cores that it may run on and of the quotas of its control group and all groups around it, rounded
    up. What cannot be read is no limit.

    Args:
        root: where `proc` and `sys` are.
    """
    return max(1, min([_usable_cores(), *_quotas(root)]))


def cpu_limit() -> int:
    """Return the threads that fit this process where it may not use the whole machine, 0 where it may."""
    import psutil

    cpus, all_cpus = available_cpus(), psutil.cpu_count() or 1
    # PyTorch and ONNX Runtime take a thread for each core, not for each of a core's two hardware threads.
    return min(cpus, psutil.cpu_count(logical=False) or all_cpus) if cpus < all_cpus else 0


def default_threads() -> int:
    """Return the CPU threads of an operator where none are asked for; 0 leaves the library its own number.

    `OMP_NUM_THREADS` counts for every library, those that do not read it included; without it `cpu_limit` does.
    """
    # A list is for nested levels; the first one is that of an operator.
    first = os.environ.get(OPENMP_VARIABLE, "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() and int(first) > 0 else cpu_limit()


@contextlib.contextmanager
def cpu_threads(threads: int = 0) -> Iterator[None]:
    """Let the network's libraries and OpenCV use so many CPU threads for an operator within the block.

    Args:
        threads: 0 leaves each library its own number, unless this process may use fewer CPUs than that; see
            `default_threads`.

    The number belongs to the whole process, and to those that it starts. A library that is loaded within the block
    keeps it.

    Raises:
        BackendError: a negative number.
    """
    if threads < 0:
        raise BackendError(
            f"{threads} threads are not possible; use 1 or more, or 0 for the defaults", arguments=("threads",)
        )
    if not threads and OPENMP_VARIABLE not in os.environ:
        threads = cpu_limit()
    with contextlib.ExitStack() as restore:
        if threads:
            for variable in _VARIABLES:
                restore.callback(_set_variable, variable, os.environ.get(variable))
                _set_variable(variable, str(threads))
            for name, tell, change in _LOADED:
                library = sys.modules.get(name)
                if library is not None:
                    restore.callback(getattr(library, change), getattr(library, tell)())
                    getattr(library, change)(threads)
        yield


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _usable_cores() -> int:
    if sys.version_info >= (3, 13):
        # Knows -X cpu_count and PYTHON_CPU_COUNT, too.
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[int]:
    """Yield the CPUs that each control group around this process is given; see cgroups(7)."""
    lines = (line.split(":", 2) for line in _read(root / "proc/self/cgroup").splitlines())
    for _, controllers, path in (parts for parts in lines if len(parts) == 3):
        if controllers == "":
            places, read_quota = [""], _quota_v2
        elif "cpu" in controllers.split(","):
            places, read_quota = [controllers, "cpu"], _quota_v1
        else:
            continue
        # Within a container the path may be the host's, of which only the outermost folder exists here.
        group = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
        for place in places:
            for folder in (group, *group.parents):
                quota, period = read_quota(root / "sys/fs/cgroup" / place / folder)
                if quota > 0 and period > 0:
                    yield -(-quota // period)


def _quota_v2(group: Path) -> tuple[int, int]:
    """Return microseconds of CPU time in each so many microseconds; -1 for no limit."""
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return _number(quota), _number(period)


def _quota_v1(group: Path) -> tuple[int, int]:
    return _number(_read(group / "cpu.cfs_quota_us")), _number(_read(group / "cpu.cfs_period_us"))


def _number(text: str) -> int:
    """Return a whole number; -1 for `max`, and for what is none."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else -1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
