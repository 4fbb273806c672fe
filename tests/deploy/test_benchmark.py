"""Measuring: what is timed, in which order, and what a report says. Times come from a fake, or are only compared."""

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import FakeRunner, Image, write_image

from ssd_deploy.backends.base import Runner
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.benchmark import environment
from ssd_deploy.benchmark.chart import write_chart
from ssd_deploy.benchmark.environment import Memory, describe_environment, memory_in_use, thread_count
from ssd_deploy.benchmark.images import benchmark_images, generate_image
from ssd_deploy.benchmark.measure import (
    MOST_IMAGES,
    WARM_UP_CALLS,
    BenchmarkSettings,
    Contender,
    Latency,
    Measured,
    measure,
    wait_until_idle,
)
from ssd_deploy.benchmark.report import BenchmarkReport
from ssd_deploy.benchmark.run import BackendChoice, Source, open_backends, parse_backend, parse_backends, run
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ImageError
from ssd_train.files import write_json
from ssd_train.networks.precision import in_precision
from ssd_train.networks.ssd import SSD
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
        spec=SPEC,
        settings=SHORT,
        images="three files",
        measured=measured,
        not_run=("tensorrt, fp16: is not installed",),
        environment=describe_environment(),
        opencv_threads=2,
    )


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
    # A warm-up has three calls and one from files; a turn an untimed and a timed one of each.
    assert order == "AAAABBBBCCCC" + "AAAABBBBCCCC" + "CCCCBBBBAAAA" + "AAAABBBBCCCC"


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
    assert runner.batch_sizes == [2] * 12 + [5] * 12


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
    grown = [row.memory.resident_bytes for row in rows]
    if None in grown:
        pytest.skip("this system does not tell a process's memory")
    for row, expected in zip(rows, (74, 0, 74, 0), strict=True):
        assert abs((row.memory.resident_bytes or 0) / 2**20 - expected) < 8


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
    if Path("/proc/self/status").exists():
        assert (found.memory_bytes or 0) > 2**28 and (thread_count() or 0) >= 1
        assert (memory_in_use().resident_bytes or 0) > 2**24


def test_the_gpus_name_driver_and_memory_are_asked_of_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        '*--id=1*name,driver_version*) echo "NVIDIA Fake, 570.1" ;;\n*--id=1*memory.used*) echo 512 ;;\n'
        '*--id=2*) echo "[N/A]" ;;\n*) exit 6 ;;\nesac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    found = describe_environment()
    assert (found.gpu, found.driver, memory_in_use().gpu_bytes) == ("NVIDIA Fake", "570.1", 512 * 2**20)
    assert "GPU: NVIDIA Fake, driver 570.1" in "\n".join(found.lines())
    for other in ("2", "3"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", other)
        assert (environment.describe_environment().gpu, memory_in_use().gpu_bytes) == (None, None)


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
    ("text", "name", "variants"),
    [
        ("torch", "torch", ()),
        ("torch:compile", "torch", ("compile",)),
        (" torch:channels-last+compile ", "torch", ("compile", "channels-last")),
        ("torch:cuda-graph", "torch", ("cuda-graph",)),
        ("onnxruntime", "onnxruntime", ()),
        ("onnxruntime:cuda", "onnxruntime", ("cuda",)),
        ("onnxruntime:tensorrt", "onnxruntime", ("tensorrt",)),
        ("tensorrt:cuda-graph", "tensorrt", ("cuda-graph",)),
        ("tensorrt-rtx:cuda-graph", "tensorrt-rtx", ("cuda-graph",)),
    ],
)
def test_backends_are_read(text: str, name: str, variants: tuple[str, ...]) -> None:
    choice = parse_backend(text)
    assert choice == BackendChoice(name=name, variants=variants)
    assert parse_backend(str(choice)) == choice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "choose torch .*onnxruntime.*tensorrt-rtx"),
        ("caffe", "'caffe' does not exist; choose torch .*compile, channels-last, cuda-graph"),
        ("torch:", "no variant ''; choose compile"),
        ("torch:fast", "torch has no variant 'fast'; choose compile, channels-last, cuda-graph"),
        ("tensorrt:compile", "no variant 'compile'; choose cuda-graph"),
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
        precisions=("fp32",), model_for=lambda _: model_path, network_for=lambda _: copy.deepcopy(shared_network)
    )


def test_torch_and_onnxruntime_are_measured_and_reported(source: Source, files: list[Path], tmp_path: Path) -> None:
    report = run(
        dataclasses.replace(source, precisions=("fp32", "bf16"), network_for=_network_in(source)),
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
    for column in ("precision", "batch", "network p50", "p90", "p99", "images/s", "end-to-end p50"):
        assert column in header
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
    report = run(source, parse_backends("onnxruntime"), SHORT, images=files, threads=2)
    assert (report.opencv_threads, report.measured.rows[0].threads) == (2, 2)
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before
    with pytest.raises(BackendError, match="-1 threads are not possible"):
        run(source, parse_backends("onnxruntime"), SHORT, threads=-1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to count threads")
def test_the_threads_that_onnxruntime_chooses_are_counted(source: Source) -> None:
    with open_backends(source, parse_backends("onnxruntime")) as opened:
        assert opened.contenders[0].threads in range(1, environment.usable_cores() + 1)


def test_backends_are_opened_once_and_closed_whatever_happens(source: Source) -> None:
    runners: list[SlowFake] = []
    asked: list[tuple[str, bool]] = []

    def open_tensorrt(flavour: str, cuda_graph: bool) -> Callable[[Path], Runner]:
        asked.append((flavour, cuda_graph))

        def open_file(model: Path) -> Runner:
            assert model.suffix == ".onnx"
            runners.append(SlowFake(0, name=flavour))
            return runners[-1]

        return open_file

    choices = parse_backends("tensorrt,tensorrt-rtx:cuda-graph")
    with (
        pytest.raises(KeyboardInterrupt),
        open_backends(source, choices, open_tensorrt=open_tensorrt) as opened,
    ):
        assert [item.backend for item in opened.contenders] == ["tensorrt", "tensorrt-rtx:cuda-graph"]
        assert not any(runner.is_closed for runner in runners)
        raise KeyboardInterrupt
    assert asked == [("tensorrt", False), ("tensorrt-rtx", True)]
    assert all(runner.is_closed for runner in runners)


def test_each_precision_is_exported_once_and_a_failing_one_is_noted(source: Source, model_path: Path) -> None:
    exported: list[str] = []

    def model_for(precision: str) -> Path:
        exported.append(precision)
        if precision == "bf16":
            raise BackendError("bf16 is not exported")
        return model_path

    both = dataclasses.replace(source, precisions=("fp32", "bf16"), model_for=model_for)
    with open_backends(both, parse_backends("onnxruntime,onnxruntime:cpu")) as opened:
        assert [item.backend for item in opened.contenders] == ["onnxruntime", "onnxruntime:cpu"]
    assert exported[:2] == ["fp32", "bf16"]
    assert opened.not_run[0] == "onnxruntime, bf16: bf16 is not exported"


def test_a_model_file_runs_where_such_files_do(model_path: Path, files: list[Path], tmp_path: Path) -> None:
    source = Source.from_file(model_path)
    report = run(source, parse_backends("onnxruntime"), SHORT, images=files)
    assert report.measured.rows[0].precision == "fp32"
    with pytest.raises(BackendError, match="backend torch:compile runs a --network"):
        run(source, parse_backends("onnxruntime,torch:compile"), SHORT, images=files)
    with pytest.raises(BackendError, match="onnxruntime runs a .onnx file"):
        run(Source.from_file(tmp_path / "a.engine"), parse_backends("onnxruntime"), SHORT, images=files)
    with pytest.raises(BackendError, match="none of these backends works here: onnxruntime, as built: .*no such model"):
        run(Source.from_file(tmp_path / "missing.onnx"), parse_backends("onnxruntime"), SHORT, images=files)


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
    times_ms = runner._bound_times_ms(images, 3, ("cpu", 0))
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
