"""Real engines that do not fit are refused in one sentence; builds leave what they should, and no more."""

import hashlib
import json
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu_parts import MAX_BATCH, SAME_RUNNER, SMALL, Models, Record, assert_same, noise

from export.engine.bindings import Messages, load_bindings, make_logger
from export.engine.build import BuiltEngine, build_engine
from export.engine.file import BuildOptions, info_path
from ssd_deploy import engines
from ssd_train.errors import BackendError, ModelError

pytestmark = pytest.mark.gpu


@pytest.fixture
def copied(small_engine: BuiltEngine, tmp_path: Path) -> Path:
    """An engine and its JSON that a test may spoil."""
    path = tmp_path / "copied.engine"
    shutil.copyfile(small_engine.path, path)
    shutil.copyfile(info_path(small_engine.path), info_path(path))
    return path


def edit(engine: Path, **values: Any) -> None:
    """Change entries of the JSON beside an engine."""
    path = info_path(engine)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def assert_refused(
    open_engine: Callable[..., Any], path: Path, error: type[Exception], pattern: str, **options: Any
) -> None:
    """Fail unless opening an engine raises one sentence with these words."""
    with pytest.raises(error, match=pattern) as caught:
        open_engine(path, **options)
    assert "\n" not in str(caught.value)


def test_a_plan_that_was_cut_short_is_refused(copied: Path, open_engine: Callable[..., Any]) -> None:
    copied.write_bytes(copied.read_bytes()[:-1000])
    assert_refused(open_engine, copied, ModelError, "bytes instead of")


def test_a_plan_that_was_changed_is_refused(copied: Path, open_engine: Callable[..., Any]) -> None:
    plan = bytearray(copied.read_bytes())
    plan[len(plan) // 2] ^= 1
    copied.write_bytes(plan)
    assert_refused(open_engine, copied, ModelError, "changed since it was built")


def test_an_engine_of_another_gpu_is_refused(copied: Path, flavour: str, open_engine: Callable[..., Any]) -> None:
    if flavour == "tensorrt":
        edit(copied, gpu="NVIDIA Imaginary 1", compute_capability="7.5")
        assert_refused(open_engine, copied, BackendError, "built on NVIDIA Imaginary 1 .*hardware_compatible")
    else:
        options = json.loads(info_path(copied).read_text())["options"]
        edit(copied, options=options | {"target_sm": [99]})
        assert_refused(open_engine, copied, BackendError, "built for compute capability 9.9.*target_sm")


def test_an_engine_of_another_version_of_tensorrt_is_refused(
    copied: Path, flavour: str, open_engine: Callable[..., Any]
) -> None:
    edit(copied, tensorrt_version="1.2.3")
    assert_refused(open_engine, copied, BackendError, f"was built by {flavour} 1.2.3 .*{flavour}==1.2.3")


def test_a_description_of_another_profile_is_refused(copied: Path, open_engine: Callable[..., Any]) -> None:
    options = json.loads(info_path(copied).read_text())["options"]
    edit(copied, options=options | {"max_batch": MAX_BATCH + 1})
    assert_refused(open_engine, copied, ModelError, "batches of")


def test_a_batch_over_the_profile_is_refused_and_the_next_one_answered(
    small_engine: BuiltEngine, open_engine: Callable[..., Any]
) -> None:
    runner = open_engine(small_engine.path)
    images = noise(MAX_BATCH + 1)
    expected = runner.run(images[:MAX_BATCH])
    with pytest.raises(BackendError, match=f"batch of {MAX_BATCH + 1} .* at most {MAX_BATCH}.*max_batch"):
        runner.run(images)
    assert_same(runner.run(images[:MAX_BATCH]), expected, SAME_RUNNER["fp32"])


def test_an_engine_is_found_in_the_cache_again(small_engine: BuiltEngine, models: Models, flavour: str) -> None:
    again = models.engine(SMALL, "fp32", flavour, opt_batch=2, max_batch=MAX_BATCH)
    assert (again.from_cache, again.path) == (True, small_engine.path)


def accepted(flavour: str, data: bytes) -> bool:
    """Whether TensorRT takes a timing cache as one of its own, of this version and card."""
    trt = load_bindings(flavour)
    builder = trt.Builder(make_logger(trt, Messages()))
    config = builder.create_builder_config()
    return bool(config.set_timing_cache(config.create_timing_cache(data), False))


def test_a_build_leaves_measurements_that_the_next_one_uses(
    tensorrt_flavour: str, models: Models, tmp_path: Path, record: Record
) -> None:
    onnx = models.onnx(SMALL)
    first = engines.engine_for(onnx, BuildOptions(max_batch=2), flavour=tensorrt_flavour, cache=tmp_path)
    (timing_cache,) = (tmp_path / "timing").iterdir()
    data = timing_cache.read_bytes()
    assert len(data) > 1000
    assert accepted(tensorrt_flavour, data)
    options = BuildOptions(max_batch=2, workspace_mib=4096)
    second = engines.engine_for(onnx, options, flavour=tensorrt_flavour, cache=tmp_path)
    assert not second.from_cache
    assert [path.name for path in (tmp_path / "timing").iterdir()] == [timing_cache.name]
    assert accepted(tensorrt_flavour, timing_cache.read_bytes())
    record(first_seconds=first.info.build_seconds, second_seconds=second.info.build_seconds, size_bytes=len(data))


def test_a_broken_timing_cache_does_not_stop_a_build(tensorrt_flavour: str, models: Models, tmp_path: Path) -> None:
    onnx = models.onnx(SMALL)
    engines.engine_for(onnx, BuildOptions(max_batch=2), flavour=tensorrt_flavour, cache=tmp_path)
    (timing_cache,) = (tmp_path / "timing").iterdir()
    timing_cache.write_bytes(b"no timing cache")
    options = BuildOptions(max_batch=3)
    assert not engines.engine_for(onnx, options, flavour=tensorrt_flavour, cache=tmp_path).from_cache
    assert accepted(tensorrt_flavour, timing_cache.read_bytes())


def test_a_cancelled_build_leaves_no_engine_and_the_next_one_succeeds(
    flavour: str, models: Models, tmp_path: Path, open_engine: Callable[..., Any]
) -> None:
    onnx = models.onnx(SMALL)
    gpu = engines.find_gpu() if flavour == "tensorrt" else None
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    reported: list[float] = []

    def press_control_c_once(fraction: float, phase: str) -> None:
        reported.append(fraction)
        if len(reported) == 1:
            signal.pthread_kill(main_thread, signal.SIGINT)

    options = BuildOptions(max_batch=4)
    with pytest.raises(KeyboardInterrupt):
        build_engine(onnx, options, flavour=flavour, gpu=gpu, cache=tmp_path, on_progress=press_control_c_once)
    assert reported
    assert not list((tmp_path / "engines").glob("*")), "an engine of a cancelled build"
    built = build_engine(onnx, options, flavour=flavour, gpu=gpu, cache=tmp_path)
    assert not built.from_cache
    assert (open_engine(built.path).run(noise(1)).labels >= 0).any()


def test_layer_precisions_are_read_back(
    tensorrt_flavour: str, precision: str, models: Models, tmp_path: Path, record: Record
) -> None:
    from test_gpu_parity import assert_convolutions

    built = models.engine(SMALL, precision, tensorrt_flavour, opt_batch=2, max_batch=MAX_BATCH)
    record(precision=precision, layer_precisions=built.info.layer_precisions, warnings=list(built.info.warnings))
    assert_convolutions(built.info.layer_precisions, precision)


# The last ones: nobody can promise that a library survives what it is not made for.
@pytest.mark.parametrize("kept", [0.5, 0.01, 0.0])
def test_what_tensorrt_says_of_a_broken_plan_is_in_the_sentence(
    kept: float, copied: Path, small_engine: BuiltEngine, open_engine: Callable[..., Any], record: Record
) -> None:
    plan = copied.read_bytes()[: int(kept * small_engine.info.size_bytes)]
    copied.write_bytes(plan)
    # As if the description belonged to it, so that TensorRT itself gets to see it.
    edit(copied, size_bytes=len(plan), plan_sha256=hashlib.sha256(plan).hexdigest())
    with pytest.raises(BackendError, match="cannot load the engine") as caught:
        open_engine(copied)
    record(kept=kept, words=str(caught.value))
    assert "\n" not in str(caught.value)
    # The refusal breaks nothing for others.
    assert (open_engine(small_engine.path).run(noise(1)).labels >= 0).any()
