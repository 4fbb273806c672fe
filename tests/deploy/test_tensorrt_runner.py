"""The TensorRT runner over a fake GPU and a fake TensorRT: order, sizes, errors, and that all is given back.

What a real driver-less machine says is tested with the real TensorRT for RTX at the end. Numbers from a real
GPU are the business of `test_backend_contract.py`.
"""

import dataclasses
import gc
import hashlib
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudaDevice, FakeDataType, FakeTensorIOMode, FakeTensorRT, answer
from fake_driver import has_driver

from export.engine.file import BuildOptions, EngineInfo, TensorInfo, info_path, write_info
from ssd_deploy.backends import BACKENDS, RunOptions
from ssd_deploy.backends import tensorrt as runner_module
from ssd_deploy.backends.base import DeviceTimed
from ssd_deploy.backends.tensorrt import TensorRTRunner
from ssd_train.errors import BackendError, ModelError
from ssd_train.spec import DetectorSpec, PostprocessSettings

KEPT = 5
SIZE = (6, 8)
SPEC = DetectorSpec(
    network="fake_net",
    class_names=("cat", "dog"),
    input_size=SIZE,
    postprocess=PostprocessSettings(pre_nms_top_k=10, max_detections=KEPT),
)
PLAN = b"a plan that only a fake TensorRT loads"
Open = Callable[..., TensorRTRunner]


def described(**changes: Any) -> EngineInfo:
    """An engine's description, built on the fake GPU by the fake TensorRT for batches of 1 to 4."""
    info = EngineInfo(
        flavour="tensorrt",
        tensorrt_version="10.16.1.11",
        spec=SPEC,
        options=BuildOptions(min_batch=1, opt_batch=2, max_batch=4),
        inputs={"images": TensorInfo(dtype="FLOAT", shape=(-1, 3, *SIZE))},
        outputs={},
        gpu="NVIDIA L4",
        compute_capability="8.9",
        onnx_sha256="0" * 64,
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        size_bytes=len(PLAN),
        build_seconds=1.0,
        layer_precisions=None,
        warnings=(),
    )
    return dataclasses.replace(info, **changes)


def with_options(**changes: Any) -> EngineInfo:
    return described(options=BuildOptions(min_batch=1, opt_batch=2, max_batch=4, **changes))


def rtx(**options: Any) -> EngineInfo:
    return dataclasses.replace(with_options(**options), flavour="tensorrt-rtx", gpu=None, compute_capability=None)


def batch(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, *SIZE)).astype(np.float32)


@pytest.fixture
def device() -> FakeCudaDevice:
    return FakeCudaDevice()


@pytest.fixture
def trt(device: FakeCudaDevice, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    module = FakeTensorRT(device, SIZE, KEPT)
    monkeypatch.setattr(runner_module, "load_bindings", lambda flavour: module)
    return module


@pytest.fixture
def open_engine(tmp_path: Path, device: FakeCudaDevice, trt: FakeTensorRT) -> Open:
    """Write an engine and open it."""

    def opened(info: EngineInfo | None = None, **options: Any) -> TensorRTRunner:
        path = tmp_path / "x.engine"
        path.write_bytes(PLAN)
        write_info(path, info or described())
        return TensorRTRunner(path, device=device, **options)

    return opened


def assert_nothing_held(device: FakeCudaDevice, trt: FakeTensorRT) -> None:
    gc.collect()
    assert device.held == set()
    assert trt.live == []
    assert device.pushes == device.pops and device.depth == 0


def assert_answers(runner: TensorRTRunner, images: np.ndarray) -> None:
    expected = answer(images, KEPT)
    found = runner.run(images)
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(found, name), expected[name])


# --- What it does ---


def test_runner_says_what_it_is(open_engine: Open) -> None:
    runner = open_engine()
    assert runner.name == "tensorrt 10.16.1 (NVIDIA L4, fake 1.0)"
    assert runner.max_batch_size == 4
    assert runner.spec == SPEC
    assert runner.device_clock == "CUDA events"
    assert isinstance(runner, DeviceTimed)
    assert open_engine(cuda_graph=True).name == "tensorrt 10.16.1 (NVIDIA L4, fake 1.0, CUDA graph)"


def test_detections_of_every_batch_size_come_back_by_name(open_engine: Open) -> None:
    runner = open_engine()
    for count in (4, 1, 3, 2, 2):
        assert_answers(runner, batch(count, seed=count))
    found = runner.run(batch(2))
    assert found.labels.dtype == np.int64 and found.boxes.dtype == found.scores.dtype == np.float32


def test_images_are_neither_changed_nor_taken_for_contiguous(open_engine: Open) -> None:
    runner = open_engine()
    images = batch(4)[::-2]
    images.flags.writeable = False
    before = images.copy()
    assert_answers(runner, images)
    np.testing.assert_array_equal(images, before)


def test_a_result_stays_as_it_is_after_the_next_call_and_after_close(open_engine: Open) -> None:
    runner = open_engine()
    first = runner.run(batch(2, seed=1))
    runner.run(batch(2, seed=2))
    runner.close()
    for found, expected in zip(first, answer(batch(2, seed=1), KEPT).values(), strict=False):
        assert found.shape == expected.shape
    np.testing.assert_array_equal(first.scores, answer(batch(2, seed=1), KEPT)["scores"])
    np.testing.assert_array_equal(first.labels, answer(batch(2, seed=1), KEPT)["labels"])


def test_buffers_have_room_for_the_largest_batch_and_each_type(open_engine: Open, device: FakeCudaDevice) -> None:
    open_engine()
    pixels = 4 * 3 * 6 * 8 * 4
    assert sorted(device.sizes) == sorted([pixels, 4 * KEPT * 4 * 4, 4 * KEPT * 4, 4 * KEPT * 8])
    assert set(device.host_shapes) == {
        ((4, 3, *SIZE), np.dtype(np.float32)),
        ((4, KEPT, 4), np.dtype(np.float32)),
        ((4, KEPT), np.dtype(np.float32)),
        ((4, KEPT), np.dtype(np.int64)),
    }


def test_a_call_sets_the_shape_copies_in_runs_copies_out_and_waits(open_engine: Open, device: FakeCudaDevice) -> None:
    runner = open_engine()
    device.log.clear()
    runner.run(batch(3))
    back = ["copy_to_host"] * 3
    assert device.log == ["set_input_shape", "infer_shapes", "copy_to_device", "execute", *back, "synchronize"]
    device.log.clear()
    runner.run(batch(3, seed=1))
    assert device.log == ["copy_to_device", "execute", *back, "synchronize"]


def test_device_times_are_of_the_computation_alone(open_engine: Open, device: FakeCudaDevice) -> None:
    runner = open_engine()
    device.log.clear()
    assert runner.device_times_ms(batch(2), 3) == [1.5, 1.5, 1.5]
    start = device.log.index("record")
    assert device.log[start : start + 12] == ["record", "execute", "record", "elapsed_ms"] * 3
    assert "copy_to_host" not in device.log
    assert not any(kind == "event" for kind, _ in device.held)
    assert_answers(runner, batch(2))


def test_threads_get_their_own_answers(open_engine: Open, device: FakeCudaDevice) -> None:
    runner = open_engine()
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for call in range(10):
                assert_answers(runner, batch(1 + (seed + call) % 4, seed=seed * 100 + call))
                assert device.depth == 0
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert device.pushes == device.pops


def test_version_compatible_plan_may_run_its_own_code(open_engine: Open, trt: FakeTensorRT) -> None:
    open_engine()
    assert not trt.host_code_allowed
    open_engine(with_options(version_compatible=True))
    assert trt.host_code_allowed


# --- CUDA graph ---


def test_graph_is_captured_once_a_batch_size_and_replayed(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT
) -> None:
    runner = open_engine(cuda_graph=True)
    for seed, count in enumerate((2, 2, 1, 2, 1)):
        assert_answers(runner, batch(count, seed=seed))
    assert device.log.count("capture") == 2
    assert device.log.count("launch") == 5
    # One execution to warm up and one that is captured; the fake context fails if it changes after that.
    assert device.log.count("execute") == 4
    assert trt.made == 2
    device.log.clear()
    assert runner.device_times_ms(batch(2), 2) == [1.5, 1.5]
    assert [name for name in device.log if name in ("launch", "execute")] == ["launch", "launch"]
    runner.close()
    assert_nothing_held(device, trt)


def test_capturing_is_not_within_the_first_measured_time(open_engine: Open, device: FakeCudaDevice) -> None:
    runner = open_engine(cuda_graph=True)
    runner.device_times_ms(batch(2), 1)
    assert device.log.index("capture") < device.log.index("record")


def test_failed_capture_is_an_error_and_tried_again(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT
) -> None:
    runner = open_engine(cuda_graph=True)
    trt.fails.add("captured execution")
    with pytest.raises(BackendError, match=r"does not run the engine \(tensorrt: fake words on captured execution\)"):
        runner.run(batch(2))
    trt.fails.clear()
    # The fake's context counts as captured from, so that the same batch size must not set its shape again.
    assert_answers(runner, batch(2))
    runner.close()
    assert_nothing_held(device, trt)


def test_context_of_a_new_batch_size_that_fails_half_way_is_made_anew(open_engine: Open, trt: FakeTensorRT) -> None:
    runner = open_engine(cuda_graph=True)
    trt.fails.add("set_tensor_address")
    with pytest.raises(BackendError, match="refuses the address of images"):
        runner.run(batch(2))
    trt.fails.clear()
    assert_answers(runner, batch(2))
    assert trt.made == 2


# --- What it refuses ---


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (batch(2).astype(np.float64), "float64"),
        (batch(2)[0], r"shape \(3, 6, 8\)"),
        (batch(2)[:, :, :5], r"shape \(2, 3, 5, 8\)"),
        (batch(0), "0 images"),
        (batch(5), r"5 images, but the engine takes at most 4; build it again with max_batch 5, or send smaller"),
    ],
    ids=["float64", "no batch", "size", "empty", "too many"],
)
def test_images_that_do_not_fit_are_refused(
    open_engine: Open, device: FakeCudaDevice, images: np.ndarray, words: str
) -> None:
    runner = open_engine()
    device.log.clear()
    for call in (runner.run, lambda images: runner.device_times_ms(images, 2)):
        with pytest.raises(BackendError, match=words):
            call(images)
    assert device.log == []


def test_a_batch_below_the_profile_is_filled_up_and_its_own_answers_come_back(
    open_engine: Open, trt: FakeTensorRT
) -> None:
    trt.batches = (3, 3, 4)
    runner = open_engine(described(options=BuildOptions(min_batch=3, opt_batch=3, max_batch=4)))
    whole, alone = runner.run(batch(3)), runner.run(batch(3)[:1])
    for found, expected in zip(alone, whole, strict=True):
        assert len(found) == 1
        np.testing.assert_array_equal(found[0], expected[0])
    assert len(runner.device_times_ms(batch(1), 2)) == 2


def refused(open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, info: EngineInfo, error: type = BackendError):
    """The one sentence with which an engine is refused before TensorRT sees it."""
    with pytest.raises(error) as caught:
        open_engine(info)
    assert trt.made == 0 and device.log == []
    text = str(caught.value)
    assert "\n" not in text and "x.engine" in text
    return text


@pytest.mark.parametrize("version", ["10.1.0.27", "10.9.0.34", "11.4.0.106"])
def test_another_tensorrt_version_is_refused(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, version: str
) -> None:
    text = refused(open_engine, device, trt, described(tensorrt_version=version))
    assert f"built by tensorrt {version}" in text and "10.16.1.11 is installed" in text
    assert f"tensorrt=={version}" in text and "ssd-deploy export --format tensorrt" in text
    open_engine(dataclasses.replace(with_options(version_compatible=True), tensorrt_version=version))


@pytest.mark.parametrize(("gpu", "capability"), [("NVIDIA H200", "9.0"), ("NVIDIA RTX 4090", "8.9")])
def test_another_gpu_is_refused(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, gpu: str, capability: str
) -> None:
    text = refused(open_engine, device, trt, described(gpu=gpu, compute_capability=capability))
    assert f"built on {gpu} with compute capability {capability}" in text
    assert "this is NVIDIA L4 with compute capability 8.9" in text and "hardware_compatible" in text
    compatible = dataclasses.replace(with_options(hardware_compatible=True), gpu=gpu, compute_capability=capability)
    open_engine(compatible)


@pytest.mark.parametrize("info", [with_options(hardware_compatible=True), rtx()], ids=["hardware compatible", "rtx"])
def test_cards_before_ampere_are_refused(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, info: EngineInfo
) -> None:
    device.name, device.compute_capability = "NVIDIA T4", "7.5"
    text = refused(open_engine, device, trt, info)
    assert (
        "runs on Ampere (compute capability 8.0) and later, but this is NVIDIA T4 with compute capability 7.5" in text
    )
    assert ("target_sm 75" in text) == (info.flavour == "tensorrt-rtx")
    device.compute_capability = "8.0"
    open_engine(info)


def test_rtx_engine_for_other_cards_is_refused(open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT) -> None:
    text = refused(open_engine, device, trt, rtx(target_sm=(75, 120)))
    assert "built for compute capability 7.5, 12.0, but this is NVIDIA L4" in text and "target_sm 89" in text
    open_engine(rtx(target_sm=(75, 89)))
    device.compute_capability = "12.0"
    open_engine(rtx(target_sm=(120,)))


def test_cut_or_changed_plan_is_refused(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, tmp_path: Path
) -> None:
    text = refused(open_engine, device, trt, described(size_bytes=len(PLAN) + 5), ModelError)
    assert f"has {len(PLAN)} bytes instead of the {len(PLAN) + 5}" in text
    text = refused(open_engine, device, trt, described(plan_sha256="f" * 64), ModelError)
    assert "changed since it was built" in text


def test_missing_engine_or_description_is_refused(tmp_path: Path, open_engine: Open) -> None:
    with pytest.raises(ModelError, match="there is no such engine file"):
        TensorRTRunner(tmp_path / "no.engine")
    open_engine()
    info_path(tmp_path / "x.engine").unlink()
    with pytest.raises(ModelError, match="description of the engine is missing"):
        TensorRTRunner(tmp_path / "x.engine")


def test_missing_flavour_is_named(open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from export.engine import bindings

    monkeypatch.setattr(runner_module, "load_bindings", bindings.load_bindings)
    monkeypatch.setattr(bindings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"tensorrt is not installed: pip install 'ssd-deploy\[tensorrt\]'"):
        open_engine()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("boxes", None, "has the tensors images, labels, scores instead of images, boxes, scores, labels"),
        ("labels", (FakeTensorIOMode.OUTPUT, FakeDataType.INT32, (-1, KEPT)), r"labels is INT32 .* instead of INT64"),
        ("images", (FakeTensorIOMode.INPUT, FakeDataType.HALF, (-1, 3, *SIZE)), "input images is HALF .* of FLOAT"),
        ("images", (FakeTensorIOMode.INPUT, FakeDataType.FLOAT, (-1, 3, 6, 9)), r"\(batch, 3, 6, 8\)"),
        ("scores", (FakeTensorIOMode.OUTPUT, FakeDataType.FLOAT, (-1, 9)), r"\(-1, 9\) instead of .*\(batch, 5\)"),
        ("scores", (FakeTensorIOMode.OUTPUT, FakeDataType.FLOAT, (-1, KEPT, 1)), "scores"),
        ("scores", (FakeTensorIOMode.OUTPUT, FakeDataType.FLOAT, (2, KEPT)), "scores"),
        ("boxes", (FakeTensorIOMode.INPUT, FakeDataType.FLOAT, (-1, KEPT, 4)), "input boxes"),
    ],
)
def test_engine_that_is_no_detector_is_refused(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, name: str, value: Any, words: str
) -> None:
    trt.tensors.pop(name)
    if value is not None:
        trt.tensors[name] = value
    words = words.replace(" of FLOAT", " instead of FLOAT")
    with pytest.raises(ModelError, match=words):
        open_engine()
    assert_nothing_held(device, trt)


def test_profile_that_is_not_the_described_one_is_refused(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT
) -> None:
    trt.batches = (1, 2, 8)
    with pytest.raises(ModelError, match=r"batches of \(1, 8\) images"):
        open_engine()
    assert_nothing_held(device, trt)


# --- Failures inside TensorRT and CUDA ---


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("Runtime", "TensorRT does not start"),
        ("deserialize_cuda_engine", "cannot load the engine; build the engine again"),
        ("create_execution_context", "cannot create an execution context; close other programs"),
        ("set_tensor_address", "refuses the address of images"),
    ],
)
def test_refusal_of_tensorrt_while_opening_is_one_sentence_with_its_words(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, call: str, words: str
) -> None:
    trt.fails.add(call)
    with pytest.raises(BackendError) as caught:
        open_engine()
    text = str(caught.value)
    assert words in text and text.endswith(f"(tensorrt: fake words on {call})")
    assert_nothing_held(device, trt)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("set_input_shape", "refuses a batch of 3 images"),
        ("infer_shapes", "cannot tell the shape of scores for 3 images"),
        ("infer_shapes raises", r"cannot tell the shapes for 3 images \(fake inference\)"),
        ("get_tensor_shape", r"makes boxes of shape \(9, 5, 4\) for 3 images"),
        ("execute_async_v3", "does not run the engine"),
    ],
)
def test_refusal_of_tensorrt_in_a_call_is_an_error_and_the_next_call_works(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, call: str, words: str
) -> None:
    runner = open_engine()
    assert_answers(runner, batch(4))
    for seed, attempt in ((1, lambda: runner.run(batch(3))), (2, lambda: runner.device_times_ms(batch(3), 2))):
        trt.fails.add(call)
        with pytest.raises(BackendError, match=words):
            attempt()
        trt.fails.clear()
        assert device.depth == 0 and device.pushes == device.pops
        # Nothing that is queued may still read the buffers when the next call fills them.
        assert device.log[-1] == "synchronize"
        # The size that was set last is not the one that was refused.
        assert_answers(runner, batch(4, seed=seed))
    assert_answers(runner, batch(3))
    runner.close()
    assert_nothing_held(device, trt)


@pytest.mark.parametrize("step", ["create_stream", "allocate", "host_array"])
def test_cuda_error_while_opening_leaves_nothing_behind(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, step: str
) -> None:
    device.fails.add(step)
    with pytest.raises(BackendError, match=f"fake: {step} failed"):
        open_engine()
    device.held.discard(next((held for held in device.held if held[1] == device._next), ("", 0)))
    assert_nothing_held(device, trt)


@pytest.mark.parametrize("step", ["copy_to_device", "copy_to_host", "synchronize", "capture", "launch", "record"])
def test_cuda_error_in_a_call_is_raised_and_all_can_be_given_back(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, step: str
) -> None:
    runner = open_engine(cuda_graph=step in ("capture", "launch"))
    device.fails.add(step)
    with pytest.raises(BackendError, match=f"fake: {step} failed"):
        runner.device_times_ms(batch(2), 1) if step == "record" else runner.run(batch(2))
    device.fails.clear()
    assert_answers(runner, batch(2))
    runner.close()
    assert_nothing_held(device, trt)


# --- Giving back ---


def test_close_gives_everything_back_in_order_and_may_be_repeated(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT
) -> None:
    runner = open_engine(cuda_graph=True)
    runner.run(batch(2))
    device.log.clear()
    runner.close()
    assert_nothing_held(device, trt)
    order = ["destroy_graph", "synchronize", "free", "destroy_stream", "del context", "del engine", "del runtime"]
    places = [device.log.index(name) for name in order]
    assert places == sorted(places), device.log
    runner.close()
    for call in (runner.run, runner.run_raw):
        with pytest.raises(BackendError, match="closed"):
            call(batch(2))


def test_forgotten_runner_gives_everything_back(open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT) -> None:
    runner = open_engine()
    runner.run(batch(2))
    del runner
    assert_nothing_held(device, trt)
    assert not any(name.endswith("outside") for name in device.log)


def test_error_while_giving_back_does_not_keep_the_rest(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT
) -> None:
    runner = open_engine()
    device.fails.add("free_host_array")
    with pytest.raises(BackendError, match="fake: free_host_array failed"):
        runner.close()
    assert_nothing_held(device, trt)


# --- Raw predictions ---


@pytest.fixture
def raw_engine(tmp_path: Path) -> Path:
    path = tmp_path / "raw.engine"
    path.write_bytes(PLAN)
    write_info(path, described())
    return path


def test_raw_predictions_come_from_the_second_engine(
    open_engine: Open, device: FakeCudaDevice, trt: FakeTensorRT, raw_engine: Path
) -> None:
    runner = open_engine(raw=raw_engine)
    assert trt.live.count("engine") == 1
    trt.give_raw_outputs()
    for seed in range(2):
        raw = runner.run_raw(batch(3, seed=seed))
        expected = answer(batch(3, seed=seed), KEPT)
        np.testing.assert_array_equal(raw.cls_logits, expected["cls_logits"])
        np.testing.assert_array_equal(raw.box_offsets, expected["box_offsets"])
    assert trt.live.count("engine") == 2
    with pytest.raises(BackendError, match="raw.engine: a batch of 5 images"):
        runner.run_raw(batch(5))
    runner.close()
    assert_nothing_held(device, trt)


def test_raw_predictions_need_the_second_engine(open_engine: Open) -> None:
    with pytest.raises(BackendError, match=r"no raw outputs; `ssd-deploy parity --model FILE.onnx` builds one"):
        open_engine().run_raw(batch(1))


def test_second_engine_of_another_model_is_refused(open_engine: Open, raw_engine: Path) -> None:
    write_info(raw_engine, described(onnx_sha256="1" * 64))
    with pytest.raises(ModelError, match="was built from another ONNX file"):
        open_engine(raw=raw_engine).run_raw(batch(1))


# --- As a row of the table opens it ---


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeCudaDevice, trt: FakeTensorRT) -> list[Any]:
    """Numbers of the GPUs that were opened, and of every engine that was asked for: file, options, outputs, GPU."""
    seen: list[Any] = []

    def open_device(index: int = 0) -> FakeCudaDevice:
        seen.append(index)
        return device

    def engine_for(onnx: Path, options: BuildOptions, *, flavour: str, device_index: int, outputs: Any = ()) -> Any:
        seen.append((onnx.name, options, flavour, device_index, outputs))
        path = tmp_path / f"built{len(outputs)}.engine"
        path.write_bytes(PLAN)
        write_info(path, described(options=options))
        return SimpleNamespace(path=path)

    monkeypatch.setattr(runner_module, "open_device", open_device)
    monkeypatch.setattr(runner_module, "engine_for", engine_for)
    return seen


def test_an_onnx_file_is_built_for_the_batch_that_is_to_come_on_the_gpu_that_is_asked_for(
    opened: list[Any], trt: FakeTensorRT
) -> None:
    trt.batches = (1, 3, 3)
    options = RunOptions(device="cuda:2", batch_size=3, allow_tf32=True, variants=("cuda-graph",))
    runner = BACKENDS["tensorrt"].open(Path("x.onnx"), options)
    build = BuildOptions(opt_batch=3, max_batch=3, allow_tf32=True)
    assert opened == [2, ("x.onnx", build, "tensorrt", 2, ())]
    assert runner.max_batch_size == 3 and "CUDA graph" in runner.name
    assert_answers(runner, batch(3))


def test_a_second_engine_is_built_for_raw_predictions(opened: list[Any], trt: FakeTensorRT) -> None:
    trt.batches = (1, 3, 3)
    runner = BACKENDS["tensorrt"].open(Path("x.onnx"), RunOptions(device="auto", batch_size=3, with_raw=True))
    assert [asked[4] for asked in opened[1:]] == [(), ("cls_logits", "box_offsets")]
    trt.give_raw_outputs()
    assert runner.run_raw(batch(2)).cls_logits.shape == (2, KEPT, 3)


def test_an_engine_is_opened_as_it_is(open_engine: Open, opened: list[Any], tmp_path: Path) -> None:
    open_engine().close()
    runner = BACKENDS["tensorrt"].open(tmp_path / "x.engine", RunOptions(device="cuda:1", batch_size=99, with_raw=True))
    assert opened == [1] and runner.max_batch_size == 4
    assert_answers(runner, batch(4))


@pytest.mark.parametrize(
    ("flavour", "options", "words"),
    [
        ("tensorrt-rtx", {}, "is an engine of tensorrt, which tensorrt-rtx does not run"),
        ("tensorrt", {"allow_tf32": True}, "was decided when the engine was built"),
        ("tensorrt", {"device": "cpu"}, "device 'cpu' is no NVIDIA GPU"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(
    open_engine: Open, opened: list[Any], tmp_path: Path, flavour: str, options: dict[str, Any], words: str
) -> None:
    open_engine().close()
    with pytest.raises(BackendError, match=words):
        BACKENDS[flavour].open(tmp_path / "x.engine", RunOptions(**{"device": "cuda", **options}))
    assert opened == []


# --- The real TensorRT for RTX, as far as a machine without a driver goes ---


@pytest.fixture(scope="module")
def rtx_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real plan of a tiny network with a detector's inputs and outputs; TensorRT for RTX builds it on the CPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    if has_driver():
        pytest.skip("this machine has an NVIDIA driver, and the test is about one that has none")
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    images = network.add_input("images", trt.float32, (1, 3, *SIZE))
    mean = network.add_reduce(images, trt.ReduceOperation.AVG, 0b1110, False)
    mean.get_output(0).name = "scores"
    network.mark_output(mean.get_output(0))
    plan = bytes(builder.build_serialized_network(network, builder.create_builder_config()))
    path = tmp_path_factory.mktemp("rtx") / "real.engine"
    path.write_bytes(plan)
    info = dataclasses.replace(
        rtx(),
        tensorrt_version=trt.__version__,
        size_bytes=len(plan),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
    )
    write_info(path, info)
    return path


def test_without_a_driver_the_runner_says_so_in_one_sentence(rtx_engine: Path) -> None:
    with pytest.raises(BackendError) as caught:
        TensorRTRunner(rtx_engine)
    text = str(caught.value)
    assert "\n" not in text
    if importlib.util.find_spec("cuda") or importlib.util.find_spec("pycuda"):
        assert text.startswith("no usable NVIDIA GPU 0 and driver (") and "nvidia-smi" in text
    else:
        assert text.startswith("no CUDA package for Python works (")


def test_words_of_the_real_tensorrt_reach_the_error(rtx_engine: Path) -> None:
    device = FakeCudaDevice()
    with pytest.raises(BackendError, match=r"cannot load the engine.*\(tensorrt-rtx: .*[Dd]river.*\)$") as caught:
        TensorRTRunner(rtx_engine, device=device)
    assert "\n" not in str(caught.value)
    assert device.held == set() and device.depth == 0


def test_runner_needs_no_torch() -> None:
    folder = Path(runner_module.__file__).parent
    for name in ("tensorrt", "tensorrt_session", "cuda_device", "cuda_open", "cuda_python", "cuda_pycuda"):
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        assert "import torch" not in text and "from torch" not in text
