"""Measuring: what is timed, in which order, and what a report says. Times come from a fake, or are only compared."""

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pynvml
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import FakeRunner, Image, write_image

from ssd_deploy.backends import BACKENDS, Backend, BackendChoice, Finding, RunOptions, parse_backend, parse_backends
from ssd_deploy.backends.base import Runner
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.benchmark.chart import write_chart
from ssd_deploy.benchmark.images import benchmark_images, generate_image
from ssd_deploy.benchmark.measure import (
    MOST_IMAGES,
    WARM_UP_CALLS,
    BenchmarkSettings,
    Contender,
    measure,
    wait_until_idle,
)
from ssd_deploy.benchmark.measurements import Latency, Measured
from ssd_deploy.benchmark.report import BenchmarkReport
from ssd_deploy.benchmark.run import run
from ssd_deploy.benchmark.sources import Source, open_backends, usual_choices
from ssd_train.detections import PaddedDetections
from ssd_train.environment import Memory, describe_environment, memory_in_use
from ssd_train.errors import BackendError, ImageError, ModelError
from ssd_train.files import write_json
from ssd_train.networks.ssd import SSD
from ssd_train.precisions import in_precision
from ssd_train.preprocess import load_image
from ssd_train.spec import DetectorSpec

SPEC = DetectorSpec(network="fake", class_names=("a", "b"), input_size=(32, 32))
NO_GROWTH = Memory(resident_bytes=0, gpu_bytes=None)
# One timed call in every turn, whatever it takes.
SHORT = BenchmarkSettings(batch_sizes=(1,), rounds=2, turn_seconds=0)


class SlowFake(FakeRunner):
    """A fake that sleeps in each call, the first ones longer, and notes its calls in a list that fakes share."""

    def __init__(self, sleeps_ms: float, *, name: str = "slow fake", warm_up_ms: float = 0, **options: int) -> None:
        super().__init__(SPEC, [(0, 0, 16, 16, 0.5, 1)], name=name, max_batch_size=options.get("max_batch_size"))
        self.sleeps_ms, self.warm_up_ms = sleeps_ms, warm_up_ms
        self.log: list[str] = []
        self.is_closed = False

    def run(self, images: NDArray[np.float32]) -> PaddedDetections:
        self.log.append(self.name)
        is_warm = len(self.batch_sizes) >= WARM_UP_CALLS - 1
        time.sleep((self.sleeps_ms if is_warm else self.warm_up_ms or self.sleeps_ms) / 1e3)
        return super().run(images)

    def close(self) -> None:
        self.is_closed = True


class OnFakeGpu(SlowFake):
    """A fake with a GPU whose clock counts 7, 8, 9, ... ms."""

    device_clock: str | None = "fake events"

    def device_times_ms(self, images: NDArray[np.float32], runs: int) -> list[float]:
        return [7.0 + number for number in range(runs)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("jpegs")
    return [write_image(folder / f"{seed}.jpg", generate_image(seed)[:120, :160]) for seed in range(3)]


def contender(runner: Runner, opening: Memory = NO_GROWTH) -> Contender:
    return Contender(backend=runner.name, runner=runner, opening=opening)


def report_of(measured: Measured) -> BenchmarkReport:
    return BenchmarkReport(
        detectors={"": SPEC},
        settings=SHORT,
        images="three files",
        measured=measured,
        not_run=("tensorrt, fp16: is not installed",),
        environment=describe_environment(),
        opencv_threads=2,
    )


@pytest.mark.alone
def test_a_known_sleep_is_the_median_and_warm_up_is_left_out(files: list[Path]) -> None:
    runner = SlowFake(20, warm_up_ms=200)
    measured = measure([contender(runner)], files, dataclasses.replace(SHORT, rounds=3, turn_seconds=0.06))
    (row,) = measured.rows
    # Three calls of 20 ms fill a turn of 60; a sleep lasts a little longer, never shorter.
    assert 6 <= len(row.network.times_ms) <= 9
    assert 20 <= row.network.p50 < 30 and min(row.network.times_ms) >= 20
    assert max(row.network.times_ms) < 200 and max(row.end_to_end.times_ms) < 200
    assert row.end_to_end.p50 > row.network.p50
    assert (row.backend, row.precision, row.batch_size, row.device) == ("slow fake", "fp32", 1, None)


def test_backends_take_turns_in_alternating_order(files: list[Path]) -> None:
    first, second, third = (SlowFake(1, name=name) for name in "ABC")
    second.log = third.log = first.log
    measure([contender(runner) for runner in (first, second, third)], files, dataclasses.replace(SHORT, rounds=3))
    order = "".join(first.log)
    # A warm-up has four calls and one from files; a turn an untimed and a timed one of each.
    assert order == "AAAAABBBBBCCCCC" + "AAAABBBBCCCC" + "CCCCBBBBAAAA" + "AAAABBBBCCCC"


def test_progress_ends_with_all_turns_done(files: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    runners = [contender(SlowFake(0, name="all")), contender(SlowFake(0, name="few", max_batch_size=1))]
    settings = dataclasses.replace(SHORT, batch_sizes=(1, 2))
    measure(runners, files, settings, on_turn=lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 8) and seen[-1] == (8, 8) and seen == sorted(seen)


def test_percentiles_are_numpys_and_throughput_counts_slow_calls_too() -> None:
    times_ms = tuple(float(value) for value in np.random.default_rng(0).lognormal(3, 1, 257))
    latency = Latency(times_ms=times_ms, batch_size=4)
    assert (latency.p50, latency.p90, latency.p99) == tuple(np.percentile(times_ms, [50, 90, 99]))
    # Three calls of 10, 10 and 180 ms with 4 images each: 12 images in 0.2 s.
    assert Latency(times_ms=(10.0, 10.0, 180.0), batch_size=4).images_per_second == pytest.approx(60)


def test_every_batch_size_is_called_with_that_many_images_though_there_are_fewer_files(files: list[Path]) -> None:
    runner = SlowFake(0)
    measured = measure([contender(runner)], files, dataclasses.replace(SHORT, batch_sizes=(5, 2)))
    assert [row.batch_size for row in measured.rows] == [2, 5]
    assert [row.batch_size for row in measured.preparation] == [2, 5]
    assert runner.batch_sizes == [2] * 13 + [5] * 13


def test_a_batch_over_a_runners_limit_is_noted_and_the_others_go_on(files: list[Path]) -> None:
    limited, free = SlowFake(0, name="limited", max_batch_size=2), SlowFake(0, name="free")
    measured = measure([contender(limited), contender(free)], files, dataclasses.replace(SHORT, batch_sizes=(1, 4)))
    assert [(row.backend, row.batch_size) for row in measured.rows] == [("limited", 1), ("free", 1), ("free", 4)]
    assert measured.skipped == ("limited, fp32: batch 4 is over the 2 images that it takes a call",)
    assert max(limited.batch_sizes) == 1
    assert f"skipped: {measured.skipped[0]}" in report_of(measured).text()


def test_a_backend_that_fails_while_it_warms_up_is_noted_and_the_others_go_on(files: list[Path]) -> None:
    broken, sound = SlowFake(0, name="broken"), SlowFake(0, name="sound")

    def fail(images: NDArray[np.float32]) -> PaddedDetections:
        raise BackendError("out of memory")

    broken.run = fail  # type: ignore[method-assign]
    measured = measure([contender(broken), contender(sound)], files, SHORT)
    assert [row.backend for row in measured.rows] == ["sound"]
    assert measured.skipped == ("broken, fp32: batch 1 does not run: out of memory",)
    with pytest.raises(BackendError, match="nothing is left to measure: broken, fp32: .* out of memory"):
        measure([contender(broken)], files, SHORT)


def test_there_must_be_something_to_measure(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="nothing is left to measure.*over the 2 images"):
        measure([contender(SlowFake(0, max_batch_size=2))], files, dataclasses.replace(SHORT, batch_sizes=(4, 8)))
    with pytest.raises(BackendError, match="no backend to measure"):
        measure([], files, SHORT)
    with pytest.raises(ImageError, match="no image to measure with"):
        measure([contender(SlowFake(0))], [], SHORT)
    with pytest.raises(ImageError, match="missing.jpg: cannot be read"):
        measure([contender(SlowFake(0))], [tmp_path / "missing.jpg"], SHORT)


@pytest.mark.parametrize(
    "values",
    [
        {"batch_sizes": ()},
        {"batch_sizes": (0,)},
        {"batch_sizes": (1, 1)},
        {"rounds": 0},
        {"turn_seconds": -1},
        {"max_calls": 0},
    ],
)
def test_settings_that_measure_nothing_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(BackendError):
        BenchmarkSettings(**values)  # type: ignore[arg-type]


def test_a_gpus_own_time_is_asked_of_the_runner_without_its_first_run(files: list[Path]) -> None:
    measured = measure([contender(OnFakeGpu(0)), contender(SlowFake(0, name="cpu fake"))], files, SHORT)
    timed, other = measured.rows
    assert timed.device is not None and timed.device.times_ms == (8.0, 8.0)
    assert (timed.device_clock, other.device, other.device_clock) == ("fake events", None, None)
    text = report_of(measured).text()
    assert "device p50" in text and "device: fake events" in text
    without = measure([contender(SlowFake(0))], files, SHORT)
    assert "device" not in report_of(without).text()


@pytest.mark.alone
def test_memory_grows_by_what_is_opened_and_touched_in_warm_up(files: list[Path]) -> None:
    class Hoarder(SlowFake):
        """A fake that takes 64 MiB in its first call."""

        held: NDArray[np.uint8] | None = None

        def run(self, images: NDArray[np.float32]) -> PaddedDetections:
            if self.held is None:
                self.held = np.ones(64 * 2**20, np.uint8)
            return super().run(images)

    opening = Memory(resident_bytes=10 * 2**20, gpu_bytes=3)
    rows = measure(
        [contender(Hoarder(0), opening), contender(SlowFake(0, name="light"))],
        files,
        dataclasses.replace(SHORT, batch_sizes=(1, 2)),
    ).rows
    for row, expected in zip(rows, (74, 0, 74, 0), strict=True):
        assert abs(row.memory.resident_bytes / 2**20 - expected) < 8


@pytest.mark.alone
def test_waiting_ends_once_threads_are_at_rest_and_has_a_limit() -> None:
    import threading

    start = time.perf_counter()
    wait_until_idle()
    assert time.perf_counter() - start < 0.9
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    threading.Timer(0.2, stop.set).start()
    start = time.perf_counter()
    wait_until_idle(5)
    assert 0.15 < time.perf_counter() - start < 2
    thread.join()


def test_memory_is_a_sum_and_what_is_not_known_stays_so() -> None:
    assert Memory(resident_bytes=5, gpu_bytes=2) + Memory(resident_bytes=3, gpu_bytes=None) == Memory(
        resident_bytes=8, gpu_bytes=None
    )
    assert Memory(resident_bytes=5, gpu_bytes=2) - Memory(resident_bytes=3, gpu_bytes=2) == Memory(
        resident_bytes=2, gpu_bytes=0
    )


def test_the_environment_is_this_machines() -> None:
    import platform

    found = describe_environment()
    assert found.cpu and found.cores >= 1 and found.python == platform.python_version()
    assert found.packages["torch"] == torch.__version__.split("+")[0] or found.packages["torch"] == torch.__version__
    assert found.packages["numpy"] == np.__version__
    assert (found.memory_bytes or 0) > 2**28
    assert memory_in_use().resident_bytes > 2**24
    if Path("/proc/self/status").exists():
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        assert abs(memory_in_use().resident_bytes - 1024 * int(status["VmRSS"].split()[0])) < 2**24


UUIDS = ("GPU-aaaa-1111", "GPU-bbbb-2222", "GPU-cccc-3333")


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake driver with three GPUs, the last of which does not tell its memory."""

    def memory(number: int) -> SimpleNamespace:
        if number == 2:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(used=(512 + number) * 2**20)

    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(UUIDS),
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetUUID": lambda number: UUIDS[number],
        "nvmlDeviceGetName": lambda number: f"NVIDIA Fake {number}",
        "nvmlSystemGetDriverVersion": lambda: "570.1",
        "nvmlDeviceGetMemoryInfo": memory,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)


@pytest.mark.parametrize(
    ("visible", "number"),
    [(None, 0), ("0", 0), ("1,0", 1), (" 1", 1), ("2", 2), ("GPU-bbbb", 1), ("GPU-cccc-3333,0", 2)],
)
def test_the_gpu_is_the_first_that_cuda_shows(
    three_gpus: None, monkeypatch: pytest.MonkeyPatch, visible: str | None, number: int
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = describe_environment()
    assert (found.gpu, found.driver) == (f"NVIDIA Fake {number}", "570.1")
    assert f"GPU: NVIDIA Fake {number}, driver 570.1" in "\n".join(found.lines())
    assert memory_in_use().gpu_bytes == (None if number == 2 else (512 + number) * 2**20)


@pytest.mark.parametrize("visible", ["", "-1", "3", "GPU-dddd", "NoDevFiles"])
def test_gpus_that_are_hidden_are_not_reported(three_gpus: None, monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (describe_environment().gpu, describe_environment().driver, memory_in_use().gpu_bytes) == (None, None, None)


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert (describe_environment().gpu, memory_in_use().gpu_bytes) == (None, None)


def test_generated_images_are_photograph_like_jpegs_and_gone_afterwards() -> None:
    with benchmark_images([]) as (made, text):
        assert len(made) == 16 and load_image(made[0]).shape == (480, 640, 3)
        assert "16 generated JPEGs of 640 x 480" in text
        # 17 photographs of that size from COCO have 83 to 291 kB, 177 on average.
        assert all(60e3 < path.stat().st_size < 300e3 for path in made)
    assert not made[0].exists()
    np.testing.assert_array_equal(generate_image(1), generate_image(1))


def test_of_many_images_the_first_are_used_and_the_report_says_so(files: list[Path]) -> None:
    with benchmark_images(files * 30) as (used, text):
        assert len(used) == MOST_IMAGES and text.startswith("the first 64 of 90 files")
    with benchmark_images(files) as (used, text):
        assert used == files and text.startswith("3 files")


@pytest.mark.parametrize(
    ("text", "name", "device", "variants"),
    [
        ("torch", "torch", None, ()),
        ("torch:compile", "torch", None, ("compile",)),
        (" torch:channels-last+compile ", "torch", None, ("compile", "channels-last")),
        ("torch:cuda:1+cuda-graph", "torch", "cuda:1", ("cuda-graph",)),
        ("onnxruntime", "onnxruntime", None, ()),
        ("onnxruntime:cuda", "onnxruntime", "cuda", ()),
        ("onnxruntime:tensorrt", "onnxruntime", "tensorrt", ()),
        ("onnxruntime:cuda+nhwc+cuda-graph", "onnxruntime", "cuda", ("cuda-graph", "nhwc")),
        ("onnxruntime:cuda+plain", "onnxruntime", "cuda", ("plain",)),
        ("torch:cuda+eager", "torch", "cuda", ("eager",)),
        ("tensorrt:cuda-graph", "tensorrt", None, ("cuda-graph",)),
        ("tensorrt-rtx:cuda-graph", "tensorrt-rtx", None, ("cuda-graph",)),
    ],
)
def test_backends_are_read(text: str, name: str, device: str | None, variants: tuple[str, ...]) -> None:
    choice = parse_backend(text)
    assert choice == BackendChoice(backend=BACKENDS[name], device=device, variants=variants)
    assert parse_backend(str(choice)) == choice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "choose torch .*onnxruntime.*tensorrt-rtx"),
        ("caffe", "'caffe' does not exist; choose torch .*compile, channels-last, cuda-graph"),
        ("torch:", "no variant ''; choose cpu, cuda, compile"),
        ("torch:fast", "torch has no variant 'fast'; choose cpu, cuda, compile, channels-last, cuda-graph, eager"),
        ("tensorrt:compile", "no variant 'compile'; choose cuda, cuda-graph"),
        ("torch:compile+compile", "do not go together"),
        ("onnxruntime:cuda+tensorrt", "do not go together"),
        ("torch,torch", "'torch' is named twice"),
        ("torch:compile+channels-last,torch:channels-last+compile", "is named twice"),
    ],
)
def test_what_is_no_backend_gets_a_list_of_those_there_are(text: str, words: str) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        parse_backends(text)
    assert "\n" not in str(caught.value)


def test_a_list_of_backends_is_read_in_order() -> None:
    assert [str(choice) for choice in parse_backends("onnxruntime, torch,tensorrt")] == [
        "onnxruntime",
        "torch",
        "tensorrt",
    ]


@pytest.fixture
def source(shared_network: SSD, model_path: Path) -> Source:
    return Source(
        name="network",
        precisions=("fp32",),
        model_for=lambda _: model_path,
        network_for=lambda _: copy.deepcopy(shared_network),
    )


def test_torch_and_onnxruntime_are_measured_and_reported(source: Source, files: list[Path], tmp_path: Path) -> None:
    report = run(
        [dataclasses.replace(source, precisions=("fp32", "bf16"), network_for=_network_in(source))],
        parse_backends("torch,onnxruntime,torch:cuda-graph,tensorrt"),
        BenchmarkSettings(batch_sizes=(1, 2), rounds=2, turn_seconds=0),
        images=files,
        threads=1,
    )
    rows = report.measured.rows
    assert {(row.backend, row.precision) for row in rows} == {
        ("torch", "fp32"), ("torch", "bf16"),
        # The fake export has one file for both precisions, and a row says what the file says.
        ("onnxruntime", "fp32"),
    }  # fmt: skip
    assert {row.threads for row in rows} == {1} and report.opencv_threads == 1
    for row in rows:
        assert len(row.network.times_ms) == len(row.end_to_end.times_ms) == 2
        assert min(row.network.times_ms) > 0.1
    assert len(report.not_run) == 4
    assert "a CUDA graph runs on a GPU" in report.not_run[0] and "tensorrt, fp32" in report.not_run[1]

    text = report.text()
    header = next(line for line in text.splitlines() if line.startswith("backend"))
    for column in ("batch", "network p50", "p90", "p99", "images/s", "end-to-end p50"):
        assert column in header
    assert any(line.startswith("torch (cpu), bf16  ") for line in text.splitlines())
    assert sum(line.startswith(("torch (cpu", "onnxruntime (CPU)")) for line in text.splitlines()) == len(rows)
    assert "images: 3 files" in text and "CPU threads: torch 1" in text
    assert all(f"not run: {reason}" in text for reason in report.not_run)

    write_json(tmp_path / "report.json", report.to_dict())
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == json.loads(json.dumps(report.to_dict()))
    assert len(read["rows"]) == len(rows) and read["rows"][0]["network"]["p50_ms"] == rows[0].network.p50
    assert set(read["spans"]) == {"network", "device", "end to end", "decode", "preprocess"}
    assert read["environment"]["packages"]["torch"] and read["preparation"][1]["decode"]["calls"] >= 2

    path = write_chart(report, tmp_path / "chart.png")
    picture = cv2.imread(str(path))
    assert picture is not None and picture.shape[0] > 400 and picture.shape[1] > 1000
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def _network_in(source: Source) -> Callable[[str], SSD]:
    assert source.network_for is not None
    original = source.network_for("fp32")
    return lambda precision: in_precision(original, precision)


def test_threads_are_given_back_afterwards(source: Source, files: list[Path]) -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    report = run([source], parse_backends("onnxruntime"), SHORT, images=files, threads=2)
    assert (report.opencv_threads, report.measured.rows[0].threads) == (2, 2)
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before
    with pytest.raises(BackendError, match="-1 threads are not possible"):
        run([source], parse_backends("onnxruntime"), SHORT, threads=-1)


def test_the_threads_that_onnxruntime_chooses_are_counted(source: Source) -> None:
    with open_backends([source], parse_backends("onnxruntime"), (1,)) as (contenders, _):
        assert contenders[0].threads in range(1, describe_environment().cores + 1)


def toy_backend(opened: list[tuple[Path, RunOptions]], runners: list[SlowFake], **columns: object) -> BackendChoice:
    """A fake row that notes what it is asked to open; a `.broken` file does not open for a batch of 2."""

    def open_model(model: SSD | Path, options: RunOptions) -> Runner:
        assert isinstance(model, Path)
        opened.append((model, options))
        if model.suffix == ".broken" and options.batch_size == 2:
            raise BackendError("is broken")
        size = 300 if model.name.startswith("large") else 32
        runners.append(SlowFake(0, name="toy"))
        runners[-1].spec = dataclasses.replace(SPEC, input_size=(size, size))
        return runners[-1]

    row = Backend(
        name="toy",
        runs_networks=False,
        suffixes=(".onnx", ".engine", ".broken", ".toy"),
        devices=("npu",),
        variants=("fast",),
        is_tuned_for_batch=True,
        made_for=lambda path: True,
        probe=lambda device: Finding(works=True, detail=f"on {device}"),
        open=open_model,
        describe=lambda path: SPEC,
    )
    return BackendChoice(backend=dataclasses.replace(row, **columns), variants=("fast",))  # type: ignore[arg-type]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> tuple[BackendChoice, list[tuple[Path, RunOptions]], list[SlowFake]]:
    opened: list[tuple[Path, RunOptions]] = []
    runners: list[SlowFake] = []
    choice = toy_backend(opened, runners)
    monkeypatch.setitem(BACKENDS._rows, "toy", choice.backend)
    return choice, opened, runners


Toy = tuple[BackendChoice, list[tuple[Path, RunOptions]], list[SlowFake]]


def test_what_is_tuned_for_a_batch_size_is_opened_for_each_and_measured_with_its_own(
    source: Source, toy: Toy, files: list[Path]
) -> None:
    choice, opened, runners = toy
    settings = dataclasses.replace(SHORT, batch_sizes=(4, 1))
    report = run([source], [choice], settings, images=files, allow_tf32=True, device="cuda")
    assert [options.batch_size for _, options in opened] == [1, 4]
    # The row's own place, since it does not run on the one that was asked for.
    assert {(options.device, options.variants, options.allow_tf32) for _, options in opened} == {
        ("npu", ("fast",), True)
    }
    assert [set(runner.batch_sizes) for runner in runners] == [{1}, {4}]
    assert [(row.backend, row.batch_size) for row in report.measured.rows] == [("toy:fast", 1), ("toy:fast", 4)]
    assert all(runner.is_closed for runner in runners)


def test_what_is_not_tuned_for_a_batch_size_is_opened_once_for_the_largest(source: Source, files: list[Path]) -> None:
    opened: list[tuple[Path, RunOptions]] = []
    runners: list[SlowFake] = []
    choice = toy_backend(opened, runners, is_tuned_for_batch=False)
    run([source], [choice], dataclasses.replace(SHORT, batch_sizes=(1, 4)), images=files)
    assert [options.batch_size for _, options in opened] == [4] and set(runners[0].batch_sizes) == {1, 4}


def test_a_finished_engine_serves_every_batch_size_with_the_tf32_it_was_built_with(
    toy: Toy, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice, opened, _ = toy
    monkeypatch.setattr("ssd_deploy.backends.read_info", lambda path: SimpleNamespace(flavour="toy"))
    settings = dataclasses.replace(SHORT, batch_sizes=(1, 4))
    run([Source.from_file(Path("a.engine"))], [choice], settings, images=files, allow_tf32=True)
    assert [(options.batch_size, options.allow_tf32) for _, options in opened] == [(4, False)]


def test_one_batch_size_that_does_not_open_is_noted_and_the_others_go_on(toy: Toy, files: list[Path]) -> None:
    settings = dataclasses.replace(SHORT, batch_sizes=(1, 2))
    report = run([Source.from_file(Path("a.broken"))], [toy[0]], settings, images=files)
    assert [row.batch_size for row in report.measured.rows] == [1]
    assert report.not_run == ("toy:fast, as built, batch 2: is broken",)


def test_backends_are_closed_whatever_happens(source: Source, toy: Toy) -> None:
    choice, _, runners = toy
    with pytest.raises(KeyboardInterrupt), open_backends([source], [choice], (1, 2)) as (contenders, _):
        assert [item.batch_size for item in contenders] == [1, 2]
        assert not any(runner.is_closed for runner in runners)
        raise KeyboardInterrupt
    assert len(runners) == 2 and all(runner.is_closed for runner in runners)


def test_several_files_are_measured_side_by_side_each_with_its_own_input(
    toy: Toy, files: list[Path], tmp_path: Path
) -> None:
    sources = [Source.from_file(Path(name)) for name in ("large.toy", "small.toy")]
    report = run(sources, [toy[0]], SHORT, images=files)
    # Both are fp32 in one backend: the file's name tells them apart.
    assert [(row.source, row.batch_size) for row in report.measured.rows] == [("large.toy", 1), ("small.toy", 1)]
    assert [row.input_size for row in report.measured.preparation] == [(300, 300), (32, 32)]
    assert {source: spec.input_size for source, spec in report.detectors.items()} == {
        "large.toy": (300, 300),
        "small.toy": (32, 32),
    }
    text = report.text()
    assert "large.toy: fake, input 300 x 300" in text and "toy, fp32, small.toy  " in text
    assert "300 x 300" in text.split("decode p50")[1]
    assert set(report.to_dict()["detectors"]) == {"large.toy", "small.toy"}
    picture = cv2.imread(str(write_chart(report, tmp_path / "chart.png")))
    assert picture is not None


def test_files_of_other_precisions_are_told_apart_by_these(toy: Toy, source: Source, model_path: Path) -> None:
    both = [Source.from_file(model_path), source]
    with open_backends(both, [*parse_backends("onnxruntime"), toy[0]], (1,)) as (contenders, _):
        # The same backend, the same precision: by name.
        assert {item.source for item in contenders} == {model_path.name, "network"}
    with open_backends(both, parse_backends("torch"), (1,)) as (contenders, _):
        # Each backend runs what it can; a network alone is left here.
        assert [item.source for item in contenders] == [""]


def test_without_a_choice_what_runs_each_source_is_measured(source: Source, toy: Toy, model_path: Path) -> None:
    assert [str(choice) for choice in usual_choices([source])] == ["torch", "onnxruntime"]
    both = [Source.from_file(model_path), source, Source.from_file(Path("a.toy"))]
    assert [str(choice) for choice in usual_choices(both)] == ["onnxruntime", "torch", "toy"]


def test_each_precision_is_exported_once_and_a_failing_one_is_noted(source: Source, model_path: Path) -> None:
    exported: list[str] = []

    def model_for(precision: str) -> Path:
        exported.append(precision)
        if precision == "bf16":
            raise BackendError("bf16 is not exported")
        return model_path

    both = dataclasses.replace(source, precisions=("fp32", "bf16"), model_for=model_for)
    with open_backends([both], parse_backends("onnxruntime,onnxruntime:cpu"), (1,)) as (contenders, not_run):
        assert [item.backend for item in contenders] == ["onnxruntime", "onnxruntime:cpu"]
    assert exported[:2] == ["fp32", "bf16"]
    assert not_run[0] == "onnxruntime, bf16: bf16 is not exported"


def test_a_model_file_runs_where_such_files_do(
    model_path: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source.from_file(model_path)
    report = run([source], parse_backends("onnxruntime"), SHORT, images=files)
    assert report.measured.rows[0].precision == "fp32"
    with pytest.raises(BackendError, match="backend torch:compile runs a network") as caught:
        run([source], parse_backends("onnxruntime,torch:compile"), SHORT, images=files)
    assert caught.value.arguments == ("backends",)
    engine = Source.from_file(tmp_path / "a.engine")
    with pytest.raises(ModelError, match="no such engine file"):
        run([engine], parse_backends("onnxruntime"), SHORT, images=files)
    monkeypatch.setattr("ssd_deploy.backends.read_info", lambda path: SimpleNamespace(flavour="tensorrt"))
    with pytest.raises(BackendError, match="engine of tensorrt, which the onnxruntime backend does not run"):
        run([engine], parse_backends("onnxruntime"), SHORT, images=files)
    with pytest.raises(BackendError, match="none of these backends works here: onnxruntime, as built: .*no such model"):
        run([Source.from_file(tmp_path / "missing.onnx")], parse_backends("onnxruntime"), SHORT, images=files)


def test_a_chart_says_what_to_install_without_matplotlib(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssd_train.requirements.importlib.util.find_spec", lambda name: None)
    report = report_of(measure([contender(SlowFake(0))], files, SHORT))
    with pytest.raises(BackendError, match=r"A chart needs matplotlib.*ssd-deploy\[plots\]"):
        write_chart(report, tmp_path / "chart.png")
    assert not list(tmp_path.iterdir())


def test_onnxruntime_times_calls_between_values_in_device_memory(model_path: Path, pictures: list[Image]) -> None:
    runner = OnnxRuntimeRunner(model_path)
    images = np.zeros((2, 3, 300, 300), np.float32)
    with pytest.raises(BackendError, match="uses no GPU"):
        runner.device_times_ms(images, 1)
    # The same code with the CPU's memory, which is what there is without a GPU.
    times_ms = runner._times_ms(images, 3)
    assert len(times_ms) == 3 and min(times_ms) > 0.1
    runner.close()
    runner.close()


def test_what_was_measured_before_ctrl_c_is_kept(files: list[Path]) -> None:
    class Interrupted(SlowFake):
        def run(self, images: NDArray[np.float32]) -> PaddedDetections:
            if len(images) == 2:
                raise KeyboardInterrupt
            return super().run(images)

    contender = Contender(backend="fake", runner=Interrupted(1), opening=memory_in_use() - memory_in_use())
    settings = BenchmarkSettings(batch_sizes=(1, 2), rounds=1, turn_seconds=0.01)
    measured = measure([contender], files, settings)
    assert [row.batch_size for row in measured.rows] == [1]
    assert "Ctrl-C" in measured.skipped[-1]
    with pytest.raises(KeyboardInterrupt):
        measure([contender], files, BenchmarkSettings(batch_sizes=(2,), rounds=1))


def test_a_backend_that_fails_in_a_turn_is_a_note_and_the_others_go_on(files: list[Path]) -> None:
    class Failing(SlowFake):
        calls = 0

        def run(self, images: NDArray[np.float32]) -> PaddedDetections:
            self.calls += 1
            if self.calls > 8:
                raise BackendError("the card fell off the bus")
            return super().run(images)

    nothing = memory_in_use() - memory_in_use()
    contenders = [
        Contender(backend=name, runner=runner, opening=nothing)
        for name, runner in (("failing", Failing(1)), ("steady", SlowFake(1)))
    ]
    measured = measure(contenders, files, BenchmarkSettings(batch_sizes=(1,), rounds=4, turn_seconds=0.01))
    assert [row.backend for row in measured.rows] == ["steady"]
    assert "the card fell off the bus" in measured.skipped[0]
