"""CPUs that control groups and affinity leave a process, in folders made as cgroups(7) says and for real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import psutil
import pytest

from ssd_train import cpus
from ssd_train.cpus import available_cpus, cpu_limit, cpu_threads, default_threads
from ssd_train.errors import BackendError

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "_usable_cores", lambda: 16)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENCV_FOR_THREADS_NUM", raising=False)


def system(root: Path, cgroup: str, **files: str) -> Path:
    """Write a process's list of groups, and files of /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


V1 = "12:pids:/docker/ab\n4:cpu,cpuacct:/docker/ab\n0::/docker/ab\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        # Nothing that can be read, and nothing that limits.
        ("", {}, 16),
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("nonsense\n\n1\n0:\n", {"cpu.max": "50000 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "a b\n"}, 16),
        ("0::/\n", {"cpu.max": ""}, 16),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 16),
        # Version 2: whole, rounded up, less than one, more than there are.
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "15000 5000\n"}, 3),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 16),
        # The tightest of the groups around it; one beside it is another's.
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "300000 100000\n"}, 2),
        ("0::/a/b\n", {"a/c/cpu.max": "100000 100000\n"}, 16),
        # The host's path, of which the container sees the innermost folder as its root.
        ("0::/system.slice/docker-ab.scope\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../../other\n", {"cpu.max": "400000 100000\n", "other/cpu.max": "300000 100000\n"}, 3),
        # Version 1, mounted under both of its names.
        (V1, {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "300000", "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "1"}, 16),
        (V1, {"cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "3", "cpu,cpuacct/docker/ab/cpu.cfs_period_us": "1"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        (V1, {"cpu/cpu.cfs_quota_us": "100000\n"}, 16),
        # Of another controller.
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 16),
    ],
)  # fmt: skip
def test_the_tightest_limit_around_a_process_counts(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int
) -> None:
    assert available_cpus(system(tmp_path, cgroup, **files)) == expected


def test_files_that_cannot_be_read_are_no_limit(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "missing") == 16
    root = system(tmp_path, "0::/a\n", **{"cpu.max": "300000 100000\n"})
    # A folder where the file should be: an OSError for every user, root included.
    (root / "sys/fs/cgroup/a/cpu.max").mkdir(parents=True)
    assert available_cpus(root) == 3


def test_threads_are_limited_only_where_a_process_has_less_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((16, 0), (15, 8), (8, 8), (3, 3), (1, 1)):
        monkeypatch.setattr(cpus, "available_cpus", lambda available=available: available)
        assert (cpu_limit(), default_threads()) == (expected, expected), available


@pytest.mark.parametrize(("text", "expected"), [("3", 3), (" 2, 4", 2), ("", 5), ("0", 5), ("many", 5), ("-1", 5)])
def test_a_users_openmp_threads_count_for_every_library(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: int
) -> None:
    monkeypatch.setattr(cpus, "available_cpus", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert default_threads() == expected


def test_threads_hold_within_the_block_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")

    def now() -> tuple[int, int, int, str | None]:
        return torch.get_num_threads(), cv2.getNumThreads(), default_threads(), os.environ.get("OMP_NUM_THREADS")

    before = now()
    with cpu_threads(3):
        assert now() == (3, 3, 3, "3")
        with cpu_threads(1):
            assert now() == (1, 1, 1, "1")
        assert now() == (3, 3, 3, "3")
    with cpu_threads():
        assert now() == before
    monkeypatch.setattr(cpus, "available_cpus", lambda: 2)
    with cpu_threads():
        assert now() == (2, 2, 2, "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with cpu_threads():
        # What the user chose is nobody else's to change.
        assert now() == (before[0], before[1], 4, "4")
    with pytest.raises(BackendError, match="-1 threads are not possible"), cpu_threads(-1):
        pass


# Counts the threads that each library starts, as the system does, and where they may run.
PROBE = """
import json, os, sys
import psutil
from ssd_train.cpus import available_cpus, cpu_threads
asked, model = int(sys.argv[1]), sys.argv[2]
with cpu_threads(asked):
    import cv2, onnxruntime
    from export.session import open_session, quiet_options
    process = psutil.Process()
    before = process.num_threads()
    session = open_session(open(model, "rb").read(), "model", quiet_options())
    started = process.num_threads() - before
    places = sorted({core for task in os.listdir("/proc/self/task") for core in os.sched_getaffinity(int(task))})
    import torch
    print(json.dumps([available_cpus(), started + 1, cv2.getNumThreads(), torch.get_num_threads(), places]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    path = tmp_path_factory.mktemp("model") / "neg.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def start(model: Path, threads: int, cores: set[int]) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-c", PROBE, str(threads), str(model)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


@pytest.mark.slow
@needs_affinity
def test_four_processes_on_one_core_start_one_thread_each_and_stay_on_it(model: Path) -> None:
    pytest.importorskip("torch")
    core = max(os.sched_getaffinity(0))
    processes = [start(model, 0, {core}) for _ in range(4)]
    # By itself ONNX Runtime starts a thread for each core of the machine, and binds it there.
    assert [json.loads(process.communicate()[0]) for process in processes] == [[1, 1, 1, 1, [core]]] * 4


@pytest.mark.slow
@needs_affinity
@pytest.mark.parametrize("threads", [1, 2])
def test_every_library_takes_the_threads_that_are_asked_for(model: Path, threads: int) -> None:
    pytest.importorskip("torch")
    cores = os.sched_getaffinity(0)
    process = start(model, threads, cores)
    # PyTorch takes no more than there are cores.
    assert json.loads(process.communicate()[0])[1:4] == [threads, threads, min(threads, len(cores))]
