"""Engines of the stand-in are built, kept, described and refused as TensorRT's are."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt
from onnx import helper
from tensorrt.plan_file import read_plan, write_plan
from tiny_detector import SPEC, answer, batch, write_tiny

from export.engine.bindings import Messages, make_logger
from export.engine.build import BuiltEngine, build_engine, copy_engine
from export.engine.file import BuildOptions, TensorInfo, info_path, read_info
from export.engine.plan import try_out
from ssd_deploy import engines
from ssd_deploy.backends import BACKENDS, RunOptions
from ssd_deploy.backends.cuda_device import CudaDevice
from ssd_deploy.backends.cuda_open import open_device
from ssd_deploy.backends.probes import IDENTITY_ONNX
from ssd_deploy.backends.tensorrt import TensorRTRunner
from ssd_train.errors import BackendError, ModelError
from ssd_train.files import sha256_of_file

Build = Callable[..., BuiltEngine]
Open = Callable[..., TensorRTRunner]


def test_the_json_says_what_was_built_and_that_it_is_a_stand_in(
    engine: BuiltEngine, tiny_onnx: Path, device: CudaDevice, tmp_path: Path
) -> None:
    path = copy_engine(engine, tmp_path / "out")
    info = read_info(path)
    assert info == engine.info and path.name == "tiny.fp32.tensorrt.engine"
    assert (info.flavour, info.tensorrt_version, info.spec) == ("tensorrt", tensorrt.__version__, SPEC)
    assert (info.gpu, info.compute_capability) == (device.name, device.compute_capability)
    assert info.inputs == {"images": TensorInfo(dtype="FLOAT", shape=(-1, 3, 16, 16))}
    assert info.outputs == {
        "boxes": TensorInfo(dtype="FLOAT", shape=(-1, 4, 4)),
        "scores": TensorInfo(dtype="FLOAT", shape=(-1, 4)),
        "labels": TensorInfo(dtype="INT64", shape=(-1, 4)),
    }
    assert (info.onnx_sha256, info.plan_sha256) == (sha256_of_file(tiny_onnx), sha256_of_file(path))
    assert info.layer_precisions == {"fp32": 1}
    assert any("stand-in" in warning for warning in info.warnings)


def test_options_reach_the_plan(build: Build, tiny_onnx: Path) -> None:
    def header_of(**options: Any) -> Any:
        return read_plan(build(tiny_onnx, **options).path.read_bytes())[0]

    usual = header_of(min_batch=1, opt_batch=3, max_batch=4)
    shapes = [[count, 3, 16, 16] for count in (1, 3, 4)]
    assert usual.profiles == [{"images": shapes}] and usual.is_detailed
    assert (usual.allow_tf32, usual.is_version_compatible, usual.is_hardware_compatible) == (False, False, False)
    free = header_of(allow_tf32=True, version_compatible=True, hardware_compatible=True)
    assert (free.allow_tf32, free.is_version_compatible, free.is_hardware_compatible) == (True, True, True)


def test_the_same_build_comes_from_the_cache_and_any_other_does_not(build: Build, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.onnx")
    first = build(path)
    again = build(path)
    assert not first.from_cache and again.from_cache and again.path == first.path
    assert not build(path, max_batch=3).from_cache
    write_tiny(path, weights=np.ones((4, 3, 8, 8), np.float32))
    other = build(path)
    assert not other.from_cache and other.path != first.path


@pytest.mark.parametrize("spoil", ["plan", "json", "version"])
def test_an_engine_that_was_spoilt_in_the_cache_is_built_again(
    build: Build, tiny_onnx: Path, open_engine: Open, spoil: str
) -> None:
    first = build(tiny_onnx)
    if spoil == "plan":
        first.path.write_bytes(first.path.read_bytes()[:-1])
    elif spoil == "json":
        info_path(first.path).write_text("{")
    else:
        edit(first.path, tensorrt_version="10.0.0")
    again = build(tiny_onnx)
    assert not again.from_cache and again.path == first.path
    np.testing.assert_array_equal(open_engine(again.path).run(batch(2)).boxes, answer(batch(2)).boxes)


def test_measurements_are_kept_added_to_and_replaced_where_they_are_broken(
    build: Build, tiny_onnx: Path, tmp_path: Path
) -> None:
    build(tiny_onnx)
    (timings,) = (tmp_path / "cache" / "timing").iterdir()
    assert "stand-in" in timings.name
    kept = timings.read_bytes()
    assert len(kept.splitlines()) == 5  # a line about the card, and one for each of four layers
    other = write_tiny(tmp_path / "other.onnx", lambda model: setattr(model.graph.node[0], "name", "node_other"))
    build(other)
    assert timings.read_bytes().startswith(kept) and len(timings.read_bytes().splitlines()) == 6
    timings.write_bytes(b"of another card")
    build(tiny_onnx, max_batch=2)
    assert timings.read_bytes() == kept


def test_inner_values_become_outputs_and_one_that_is_not_there_is_named(build: Build, tiny_onnx: Path) -> None:
    info = build(tiny_onnx, outputs=("features",)).info
    assert info.outputs == {"features": TensorInfo(dtype="FLOAT", shape=(-1, 4, 2, 2))}
    with pytest.raises(ModelError, match="has no inner value cls_logits"):
        build(tiny_onnx, outputs=("cls_logits",))


def with_nms(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("NonMaxSuppression", ["boxes", "boxes"], ["selected"], name="node_nms"))


def test_what_cannot_be_parsed_or_built_is_said_with_the_words_that_were_logged(
    build: Build, tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny(tmp_path / "nms.onnx", with_nms)
    monkeypatch.setattr("export.engine.build.read_spec", lambda onnx: SPEC)
    with pytest.raises(ModelError, match=r"node node_nms \(NonMaxSuppression\): UNSUPPORTED_NODE, stand-in: no such"):
        build(path)
    path.write_bytes(tiny_onnx.read_bytes()[:300])
    # Before TensorRT sees it.
    with pytest.raises(ModelError, match=r"is not a usable ONNX file \(a field is cut off\)"):
        build(path)
    # Another size than the description's: the profile does not fit the file's input.
    monkeypatch.setattr("export.engine.build.read_spec", lambda onnx: dataclasses.replace(SPEC, input_size=(32, 32)))
    with pytest.raises(BackendError, match="could not build an engine: stand-in: images has the shape"):
        build(tiny_onnx)


def test_a_build_that_is_stopped_leaves_no_engine_and_the_next_one_succeeds(tiny_onnx: Path, tmp_path: Path) -> None:
    def stop(fraction: float, phase: str) -> None:
        raise KeyboardInterrupt

    arguments: dict[str, Any] = {"flavour": "tensorrt", "gpu": engines.find_gpu(), "cache": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        build_engine(tiny_onnx, BuildOptions(), on_progress=stop, **arguments)
    assert not list((tmp_path / "engines").glob("*"))
    reported: list[float] = []
    built = build_engine(
        tiny_onnx, BuildOptions(), on_progress=lambda fraction, phase: reported.append(fraction), **arguments
    )
    assert not built.from_cache and reported == sorted(reported) and reported[-1] == 1


def test_doctors_attempt_builds_and_loads_a_small_model() -> None:
    try_out("tensorrt", IDENTITY_ONNX)


# --- What is refused ---


def edit(engine: Path, **values: Any) -> None:
    """Change entries of the JSON beside an engine."""
    path = info_path(engine)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_plan(engine: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a plan, and its description with it, so that TensorRT gets to see it."""
    plan = change(engine.read_bytes())
    engine.write_bytes(plan)
    edit(engine, size_bytes=len(plan), plan_sha256=hashlib.sha256(plan).hexdigest())


def with_header(**values: Any) -> Callable[[bytes], bytes]:
    """Return a change of what a plan's own header says."""

    def change(plan: bytes) -> bytes:
        header, model = read_plan(plan)
        return write_plan(dataclasses.replace(header, **values), model)

    return change


@pytest.fixture
def copied(engine: BuiltEngine, tmp_path: Path) -> Path:
    """An engine and its JSON that a test may spoil."""
    return copy_engine(engine, tmp_path / "copied")


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"tensorrt_version": "10.13.0"}, BackendError, "was built by tensorrt 10.13.0 and runs in no other version"),
        ({"gpu": "NVIDIA Imaginary 1"}, BackendError, "was built on NVIDIA Imaginary 1"),
        ({"compute_capability": "7.5"}, BackendError, "with compute capability 7.5 and runs on no other"),
        ({"plan_sha256": "0" * 64}, ModelError, "was changed since it was built"),
        ({"size_bytes": 17}, ModelError, "bytes instead of the 17"),
        ({"options": BuildOptions(max_batch=5).built_with()}, ModelError, r"takes batches of \(1, 4\)"),
        ({"flavour": "tensorrt-rtx", "gpu": None, "compute_capability": None}, BackendError, "tensorrt-rtx"),
    ],
)
def test_an_engine_that_does_not_fit_its_description_is_refused(
    copied: Path, open_engine: Open, values: dict[str, Any], error: type[Exception], words: str
) -> None:
    edit(copied, **values)
    with pytest.raises(error, match=words) as caught:
        open_engine(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_header(version="10.13.0"), "version tag does not match"),
        (with_header(gpu="NVIDIA Imaginary 1"), "was built on NVIDIA Imaginary 1"),
        (lambda plan: plan[:20], "magic tag does not match"),
        (lambda plan: b"", "magic tag does not match"),
        (lambda plan: plan[:60], "serialized engine version cannot be read"),
        (lambda plan: plan[: len(plan) // 2], "network is broken"),
    ],
    ids=["version", "card", "mark", "empty", "header", "half"],
)
def test_what_the_library_says_of_a_plan_that_it_does_not_load_is_in_the_sentence(
    copied: Path, open_engine: Open, engine: BuiltEngine, change: Callable[[bytes], bytes], words: str
) -> None:
    change_plan(copied, change)
    with pytest.raises(BackendError, match="cannot load the engine.*stand-in: ") as caught:
        open_engine(copied)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    # The refusal breaks nothing for others.
    np.testing.assert_array_equal(open_engine(engine.path).run(batch(1)).boxes, answer(batch(1)).boxes)


def test_a_version_compatible_engine_of_another_version_runs(
    build: Build, tiny_onnx: Path, open_engine: Open, tmp_path: Path
) -> None:
    path = copy_engine(build(tiny_onnx, version_compatible=True), tmp_path / "other")
    change_plan(path, with_header(version="10.13.0"))
    edit(path, tensorrt_version="10.13.0")
    np.testing.assert_array_equal(open_engine(path).run(batch(2)).boxes, answer(batch(2)).boxes)


@pytest.mark.usefixtures("needs_fake_card")
def test_an_engine_runs_on_the_other_card_where_it_was_built_for_both(
    build: Build, tiny_onnx: Path, open_engine: Open
) -> None:
    second = open_device(1)
    with pytest.raises(BackendError, match="was built on Fake GPU 0.*this is Fake GPU 1"):
        open_engine(build(tiny_onnx).path, device=second)
    runner = open_engine(build(tiny_onnx, hardware_compatible=True).path, device=second)
    np.testing.assert_array_equal(runner.run(batch(2)).boxes, answer(batch(2)).boxes)
    assert "Fake GPU 1" in runner.name
    with pytest.raises(BackendError, match="this is Fake GPU 1"):
        BACKENDS["tensorrt"].open(build(tiny_onnx).path, RunOptions(device="cuda:1"))


def test_the_other_flavour_does_not_take_it(engine: BuiltEngine) -> None:
    with pytest.raises(BackendError, match="is an engine of tensorrt, which tensorrt-rtx does not run"):
        BACKENDS["tensorrt-rtx"].open(engine.path, RunOptions())


def test_a_logger_that_was_never_made_is_refused_as_pybind11_does() -> None:
    class Logger(tensorrt.ILogger):
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="must be called"):
        tensorrt.Builder(Logger())
    tensorrt.Builder(make_logger(tensorrt, Messages()))
