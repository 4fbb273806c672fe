"""ONNX -> engine, really built with TensorRT for RTX, which needs no GPU; TensorRT's own options as far as they go."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.engine import bindings
from export.engine import build as build_module
from export.engine import cache as cache_module
from export.engine import plan as plan_module
from export.engine.build import build_engine, check_options, copy_engine
from export.engine.cache import EngineRequest, default_cache
from export.engine.file import BuildOptions, Gpu, TensorInfo, info_path, read_info
from export.engine.flavours import TENSORRT, TENSORRT_RTX
from export.onnx import export_onnx
from ssd_train import build_network
from ssd_train.errors import BackendError, ModelError, SSDDeployError
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES, DetectorSpec, WorkingThresholds

trt_rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")

ROOT = Path(__file__).resolve().parents[2]
NAME = "ssd_300_mobilenet0.25_voc"
TINY = DetectorSpec(network="tiny", class_names=("dot",), input_size=(16, 16))
CARD = Gpu(name="NVIDIA L4", compute_capability="8.9", device_layer="cuda-python")

# TensorRT's one remark on every file of ours, and the words of those that would mean lost precision.
INT64_NOTE = "Make sure output labels has Int64 binding."
PRECISION_WORDS = ("precision", "subnormal", "overflow", "underflow", "fp16", "half", "clamp", "int64 weights", "cast")


@pytest.fixture(scope="module")
def real_onnx(tmp_path_factory):
    """A whole detector, exported as users do it."""
    torch.set_num_threads(1)
    return export_onnx(build_network(NAME, weights="random"), tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def built(real_onnx, tmp_path_factory):
    """Its engine, and what the build reported on its way."""
    reports = []
    engine = build(
        real_onnx, tmp_path_factory.mktemp("cache"), on_progress=lambda done, phase: reports.append((done, phase))
    )
    return engine, reports


@pytest.fixture
def tiny_onnx(tmp_path):
    return write_tiny(tmp_path / "tiny.onnx")


def build(path, cache, flavour=TENSORRT_RTX, gpu=None, outputs=OUTPUT_NAMES, on_progress=None, **options):
    heard = {"on_progress": on_progress} if on_progress else {}
    return build_engine(path, BuildOptions(**options), flavour=flavour, gpu=gpu, cache=cache, outputs=outputs, **heard)


def write_tiny(path, change=lambda model: None, weight=1.0):
    """A file with the inputs and outputs of a detector and four nodes: it builds in a fraction of a second."""
    values = {
        "weights": np.full((4, 3, 8, 8), weight, np.float32),
        "shape": np.array([-1, 4, 4]),
        "axis": np.array([2]),
        "at_most": np.array([5]),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weights"], ["features"], name="node_conv2d", strides=[8, 8]),
            helper.make_node("Reshape", ["features", "shape"], ["boxes"], name="node_view"),
            helper.make_node("ReduceSum", ["boxes", "axis"], ["scores"], name="node_sum", keepdims=0),
            helper.make_node("Cast", ["scores"], ["labels"], name="node_labels", to=TensorProto.INT64),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 4, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["N", 4]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, TINY.to_metadata())
    change(model)
    onnx.save(model, path)
    return path


def files_in(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def engines_in(cache):
    """All that is in a cache but the locks, which stay."""
    return [path for path in files_in(cache) if path.parts[0] != "locks"]


def watch_builds(monkeypatch):
    """Record the batch profile and the TF32 flag that TensorRT itself reports for every build."""
    seen = []
    configure = plan_module.configure_builder

    def watched(trt, builder, spec, options):
        profiles = []

        def create_optimization_profile():
            profiles.append(builder.create_optimization_profile())
            return profiles[-1]

        recording = SimpleNamespace(
            create_builder_config=builder.create_builder_config,
            create_optimization_profile=create_optimization_profile,
        )
        config = configure(trt, recording, spec, options)
        assert config.num_optimization_profiles == len(profiles) == 1
        shapes = [tuple(shape) for shape in profiles[0].get_shape("images")]
        seen.append(
            SimpleNamespace(
                tf32=config.get_flag(trt.BuilderFlag.TF32),
                shapes=shapes,
                level=config.builder_optimization_level,
                workspace=config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
                verbosity=config.profiling_verbosity,
            )
        )
        return config

    monkeypatch.setattr(plan_module, "configure_builder", watched)
    return seen


def no_build(*arguments):
    raise AssertionError("TensorRT was asked to build")


# What a build gives


def test_the_json_beside_the_plan_says_what_was_built(built, real_onnx):
    engine, _ = built
    plan = engine.path.read_bytes()
    info = read_info(engine.path)
    assert info == engine.info and not engine.from_cache
    assert engine.path.name.startswith(f"{NAME}.fp32.tensorrt-rtx.") and engine.path.suffix == ".engine"
    # The weights alone are 13 MB, and nothing is compiled away.
    assert len(plan) == info.size_bytes > 0.9 * real_onnx.stat().st_size
    assert info.plan_sha256 == hashlib.sha256(plan).hexdigest()
    assert info.onnx_sha256 == hashlib.sha256(real_onnx.read_bytes()).hexdigest()
    assert info.inputs == {"images": TensorInfo(dtype="FLOAT", shape=(-1, 3, 300, 300))}
    assert info.outputs == {
        "boxes": TensorInfo(dtype="FLOAT", shape=(-1, 100, 4)),
        "scores": TensorInfo(dtype="FLOAT", shape=(-1, 100)),
        "labels": TensorInfo(dtype="INT64", shape=(-1, 100)),
    }
    assert (info.options.min_batch, info.options.opt_batch, info.options.max_batch) == (1, 1, 8)
    assert (info.flavour, info.tensorrt_version) == ("tensorrt-rtx", trt_rtx.__version__)
    assert (info.gpu, info.compute_capability, info.layer_precisions) == (None, None, None)
    metadata = {entry.key: entry.value for entry in onnx.load(real_onnx).metadata_props}
    assert info.spec == DetectorSpec.from_metadata(metadata, "the file")
    assert 0 < info.build_seconds < 600


def test_a_build_warns_of_no_lost_precision(built):
    warnings = built[0].info.warnings
    assert [warning for warning in warnings if not warning.endswith(INT64_NOTE)] == []
    assert not [word for word in PRECISION_WORDS for warning in warnings if word in warning.lower()]


def test_what_tensorrt_warns_of_is_kept(tmp_path):
    def add_a_huge_double(model):
        model.graph.initializer.append(numpy_helper.from_array(np.array([1e300]), "huge"))
        model.graph.node[1].output[0] = "grid"
        model.graph.node.insert(2, helper.make_node("Cast", ["huge"], ["largest"], to=TensorProto.FLOAT))
        model.graph.node.insert(3, helper.make_node("Min", ["grid", "largest"], ["boxes"], name="node_min"))

    info = build(write_tiny(tmp_path / "tiny.onnx", add_a_huge_double), tmp_path / "cache").info
    assert [warning for warning in info.warnings if "out of range. Clamping" in warning]
    assert len(set(info.warnings)) == len(info.warnings) > 1


def test_progress_rises_from_0_to_nearly_1_with_the_names_of_the_phases(built):
    reports = built[1]
    done = [each for each, _ in reports]
    assert len(done) > 50
    assert done[0] < 0.05 and max(done) > 0.8 and min(done) >= 0 and max(done) <= 1
    assert {"Building engine"} < {phase for _, phase in reports}
    # Inner phases end early, so that it may fall a little, but not by a phase.
    assert max(before - after for before, after in zip(done, done[1:], strict=False)) < 0.35


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, [1, 1, 8]),
        ({"max_batch": 1}, [1, 1, 1]),
        ({"min_batch": 2, "opt_batch": 3, "max_batch": 4}, [2, 3, 4]),
    ],
)
def test_the_profile_is_the_range_of_batch_sizes(tiny_onnx, tmp_path, monkeypatch, options, shapes):
    seen = watch_builds(monkeypatch)
    info = build(tiny_onnx, tmp_path / "cache", **options).info
    assert seen[0].shapes == [(batch, 3, 16, 16) for batch in shapes]
    assert [info.options.min_batch, info.options.opt_batch, info.options.max_batch] == shapes


def test_tf32_is_off_unless_it_is_allowed(tiny_onnx, tmp_path, monkeypatch):
    # What the flag is by itself: an engine of "fp32" would round to TF32 without anybody saying so.
    config = trt_rtx.Builder(bindings.make_logger(trt_rtx, bindings.Messages())).create_builder_config()
    assert config.get_flag(trt_rtx.BuilderFlag.TF32)
    seen = watch_builds(monkeypatch)
    plain = build(tiny_onnx, tmp_path / "cache")
    allowed = build(tiny_onnx, tmp_path / "cache", allow_tf32=True)
    assert [each.tf32 for each in seen] == [False, True]
    assert (plain.info.spec.precision, allowed.info.spec.precision) == ("fp32", "tf32")
    assert plain.path.name.startswith("tiny.fp32.") and allowed.path.name.startswith("tiny.tf32.")


def test_level_workspace_and_verbosity_reach_tensorrt(tiny_onnx, tmp_path, monkeypatch):
    seen = watch_builds(monkeypatch)
    build(tiny_onnx, tmp_path / "cache")
    build(tiny_onnx, tmp_path / "cache", workspace_mib=256, optimization_level=1)
    assert (seen[0].level, seen[1].level, seen[1].workspace) == (3, 1, 256 << 20)
    assert seen[0].workspace > 256 << 20
    assert {each.verbosity for each in seen} == {trt_rtx.ProfilingVerbosity.DETAILED}


def test_raw_predictions_are_given_out_instead_for_a_parity_check(real_onnx, tmp_path):
    info = build(real_onnx, tmp_path, outputs=RAW_NAMES).info
    # 2268 anchors: 19^2 * 4 + (10^2 + 5^2 + 3^2) * 6 + (2^2 + 1) * 4.
    assert info.outputs == {
        "cls_logits": TensorInfo(dtype="FLOAT", shape=(-1, 2268, 21)),
        "box_offsets": TensorInfo(dtype="FLOAT", shape=(-1, 2268, 4)),
    }
    with pytest.raises(ModelError, match=r"has no inner value nothing, at_all; export it again"):
        build(write_tiny(tmp_path / "tiny.onnx"), tmp_path, outputs=("boxes", "nothing", "at_all"))


def test_an_engine_takes_the_working_thresholds_along(tmp_path):
    found = WorkingThresholds(overall=0.25, per_class={"dot": 0.5}, found_by="best F1")
    spec = dataclasses.replace(TINY, working_thresholds=found)
    path = write_tiny(tmp_path / "tiny.onnx", lambda model: helper.set_model_props(model, spec.to_metadata()))
    engine = build(path, tmp_path / "cache")
    assert read_info(copy_engine(engine, tmp_path / "out")).spec.working_thresholds == found


# The cache


def test_the_second_build_of_the_same_takes_none(tiny_onnx, tmp_path, monkeypatch):
    first = build(tiny_onnx, tmp_path / "cache", target_sm=(75, 89))
    before = {path: (tmp_path / "cache" / path).stat().st_mtime_ns for path in files_in(tmp_path / "cache")}
    monkeypatch.setattr(build_module, "build_plan", no_build)
    second = build(tiny_onnx, tmp_path / "cache", target_sm=(75, 89))
    assert (first.from_cache, second.from_cache) == (False, True)
    assert (second.path, second.info) == (first.path, first.info)
    assert before == {path: (tmp_path / "cache" / path).stat().st_mtime_ns for path in before}


def test_the_same_graph_elsewhere_and_under_another_name_is_a_hit(tiny_onnx, tmp_path):
    first = build(tiny_onnx, tmp_path / "cache")
    elsewhere = tmp_path / "other" / "renamed.onnx"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(tiny_onnx.read_bytes())
    assert build(elsewhere, tmp_path / "cache").from_cache and first.path.is_file()


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch": 4},
        {"opt_batch": 2},
        {"min_batch": 1, "max_batch": 1},
        {"allow_tf32": True},
        {"workspace_mib": 512},
        {"optimization_level": 2},
        {"target_sm": (75,)},
        {"outputs": ("scores",)},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_changed_option_is_another_engine(tiny_onnx, tmp_path, options):
    first = build(tiny_onnx, tmp_path / "cache")
    second = build(tiny_onnx, tmp_path / "cache", **options)
    assert not second.from_cache and second.path != first.path
    assert build(tiny_onnx, tmp_path / "cache").from_cache


def test_a_changed_weight_is_another_engine(tmp_path):
    cache = tmp_path / "cache"
    first = build(write_tiny(tmp_path / "tiny.onnx"), cache)
    second = build(write_tiny(tmp_path / "tiny.onnx", weight=2.0), cache)
    assert not second.from_cache and second.path != first.path
    assert second.info.onnx_sha256 != first.info.onnx_sha256


@pytest.mark.parametrize("damage", ["a flipped bit", "a short plan", "no plan", "no JSON", "a garbled JSON"])
def test_a_plan_that_is_not_what_its_json_says_is_built_again(tiny_onnx, tmp_path, damage):
    first = build(tiny_onnx, tmp_path / "cache")
    plan = first.path.read_bytes()
    if damage == "a flipped bit":
        first.path.write_bytes(plan[:-1] + bytes([plan[-1] ^ 1]))
    elif damage == "a short plan":
        first.path.write_bytes(plan[: len(plan) // 2])
    elif damage == "no plan":
        first.path.unlink()
    elif damage == "no JSON":
        info_path(first.path).unlink()
    else:
        info_path(first.path).write_text("{")
    second = build(tiny_onnx, tmp_path / "cache")
    assert not second.from_cache and second.path == first.path
    assert hashlib.sha256(second.path.read_bytes()).hexdigest() == second.info.plan_sha256
    assert read_info(second.path) == second.info
    assert build(tiny_onnx, tmp_path / "cache").from_cache


def test_everything_that_decides_what_an_engine_is_decides_its_name():
    base = EngineRequest(
        onnx=Path("tiny.onnx"),
        onnx_sha256="a" * 64,
        spec=TINY,
        options=BuildOptions(),
        flavour=TENSORRT,
        version="11.1.0",
        gpu=CARD,
        outputs=OUTPUT_NAMES,
    )
    others = {
        "flavour": (TENSORRT_RTX,),
        "version": ("11.2.0",),
        "gpu": (
            None,
            dataclasses.replace(CARD, name="NVIDIA A10"),
            dataclasses.replace(CARD, compute_capability="8.6"),
        ),
        "options": (
            BuildOptions(max_batch=16),
            BuildOptions(version_compatible=True),
            BuildOptions(hardware_compatible=True),
        ),
        "outputs": (RAW_NAMES,),
        "onnx_sha256": ("b" * 64,),
    }
    names = [base.name]
    for field, values in others.items():
        names += [dataclasses.replace(base, **{field: value}).name for value in values]
    assert len(set(names)) == len(names) == 11
    # The same card reached through another package is the same card, the same file elsewhere the same file, and what
    # is not accepted is built no other way.
    same = {
        "gpu": dataclasses.replace(CARD, device_layer="pycuda"),
        "onnx": Path("elsewhere.onnx"),
        "options": BuildOptions(strict=True),
    }
    assert {dataclasses.replace(base, **{field: value}).name for field, value in same.items()} == {base.name}


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SSD_DEPLOY_CACHE", "~/engines")
    assert default_cache() == Path.home() / "engines"
    monkeypatch.delenv("SSD_DEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "ssd-deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "ssd-deploy"


def test_an_engine_is_copied_under_its_plain_name_with_its_json(tiny_onnx, tmp_path):
    engine = build(tiny_onnx, tmp_path / "cache")
    path = copy_engine(engine, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "tiny.fp32.tensorrt-rtx.engine"
    assert path.read_bytes() == engine.path.read_bytes() and read_info(path) == engine.info
    assert len(files_in(path.parent)) == 2 and engine.path.is_file()


def test_a_disk_that_is_full_leaves_no_plan_and_the_next_build_works(tiny_onnx, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def half_of_it(path, content):
        write_bytes(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full, pytest.raises(SSDDeployError, match="No space left on device"):
        full.setattr(Path, "write_bytes", half_of_it)
        build(tiny_onnx, tmp_path / "cache")
    left = engines_in(tmp_path / "cache")
    assert [path for path in left if not path.name.endswith(".engine.json")] == []
    again = build(tiny_onnx, tmp_path / "cache")
    assert not again.from_cache and again.path.stat().st_size == again.info.size_bytes


@pytest.fixture
def process_cache():
    """The cache of this process, empty."""
    cache_module.process_cache.cache_clear()
    return cache_module.process_cache


def test_an_engine_that_a_full_cache_does_not_take_is_written_elsewhere(
    tiny_onnx, tmp_path, monkeypatch, caplog, process_cache
):
    write_bytes = Path.write_bytes

    def full(path, content):
        if path.is_relative_to(tmp_path / "cache"):
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    engine = build(tiny_onnx, tmp_path / "cache")
    assert engine.path.is_relative_to(process_cache()) and engine.path.stat().st_size == engine.info.size_bytes
    assert read_info(engine.path) == engine.info
    assert "No space left on device" in caplog.text and "not kept for another time" in caplog.text


def test_a_cache_that_cannot_be_written_is_done_without(tiny_onnx, tmp_path, monkeypatch, caplog, process_cache):
    (tmp_path / "cache").write_text("a file where the folder should be")
    started = []
    build_plan = build_module.build_plan

    def watched(*arguments):
        started.append("not kept for another time" in caplog.text)
        return build_plan(*arguments)

    monkeypatch.setattr(build_module, "build_plan", watched)
    engine = build(tiny_onnx, tmp_path / "cache")
    assert started == [True], "it was told before the build"
    assert engine.path.stat().st_size == engine.info.size_bytes
    copied = copy_engine(engine, tmp_path / "out")
    assert read_info(copied) == engine.info and copied.read_bytes() == engine.path.read_bytes()
    # In this process it is found again.
    assert build(tiny_onnx, tmp_path / "cache").from_cache and started == [True]
    assert (tmp_path / "cache").is_file()


def test_an_engine_of_this_process_alone_is_gone_with_it(tiny_onnx, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    done = run_build(tiny_onnx, tmp_path / "cache")
    assert done.wait(120) == 0, done.stderr.read()
    path = Path(done.stdout.read().split()[1])
    assert not path.exists() and not path.parents[1].exists()


def test_a_cache_that_can_only_be_read_still_serves(tiny_onnx, tmp_path, monkeypatch, caplog):
    first = build(tiny_onnx, tmp_path / "cache")

    def refuse(*arguments):
        raise AssertionError("something was to be written")

    monkeypatch.setattr(build_module, "writable_cache", refuse)
    monkeypatch.setattr(build_module, "building", refuse)
    assert build(tiny_onnx, tmp_path / "cache") == dataclasses.replace(first, from_cache=True)
    assert caplog.text == ""


# Several at once

BUILD = """
import sys, time
from pathlib import Path
from export.engine import build
from export.engine.file import BuildOptions

build_plan = build.build_plan

def slow(*arguments):
    plan = build_plan(*arguments)
    time.sleep(1)
    return plan

build.build_plan = slow
onnx, cache = map(Path, sys.argv[1:])
engine = build.build_engine(onnx, BuildOptions(), flavour="tensorrt-rtx", gpu=None, cache=cache)
print(engine.from_cache, engine.path, engine.info.build_seconds, engine.info.plan_sha256)
"""


def run_build(onnx, cache):
    """Build in a process of its own, in which it takes a second more."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, onnx, cache], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_of_two_processes_one_builds_and_the_other_waits_for_it(tiny_onnx, tmp_path):
    started = [run_build(tiny_onnx, tmp_path / "cache") for _ in range(2)]
    for process in started:
        assert process.wait(120) == 0, process.stderr.read()
    found = [process.stdout.read().split() for process in started]
    assert sorted(from_cache for from_cache, *_ in found) == ["False", "True"]
    assert found[0][1:] == found[1][1:]
    path = Path(found[0][1])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == read_info(path).plan_sha256


def test_who_waits_says_so_and_another_engine_waits_for_nobody(tiny_onnx, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    build_plan, inside, go_on = build_module.build_plan, threading.Event(), threading.Event()
    built = []

    def slow(trt, request, *arguments):
        if request.options.max_batch == 8:
            inside.set()
            assert go_on.wait(60)
        return build_plan(trt, request, *arguments)

    monkeypatch.setattr(build_module, "build_plan", slow)
    threads = [threading.Thread(target=lambda: built.append(build(tiny_onnx, tmp_path / "cache"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(60)
    assert not build(tiny_onnx, tmp_path / "cache", max_batch=4).from_cache
    deadline = time.monotonic() + 60
    while "waiting for another process" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "waiting for another process that builds tiny.fp32" in caplog.text
    go_on.set()
    for thread in threads:
        thread.join()
    assert sorted(engine.from_cache for engine in built) == [False, True]


def test_a_folder_without_locks_is_no_reason_not_to_build(tiny_onnx, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "locks").write_text("no folder")
    engine = build(tiny_onnx, tmp_path / "cache")
    assert engine.path.is_relative_to(tmp_path / "cache") and not engine.from_cache
    assert "cannot be locked" in caplog.text


# What the engine inspector says: TensorRT's alone, for which the other flavour builds here


def layer(kind):
    types = [{"Format/Datatype": kind}]
    return {"LayerType": "CaskConvolution", "ParameterType": "Convolution", "Inputs": types, "Outputs": types}


@pytest.fixture
def tell(monkeypatch):
    """Let TensorRT be there, and its inspector say what it is told to: types of the convolutions, or an error."""
    monkeypatch.setattr(build_module, "load_bindings", lambda flavour: trt_rtx)
    # The one that stands in warns that it has no use for one.
    monkeypatch.setattr(build_module, "timing_cache_path", lambda *_: None)

    def tell(*kinds):
        def read_layers(*arguments):
            if isinstance(kinds[0], BaseException):
                raise kinds[0]
            return {"Layers": [layer(kind) for kind in kinds]}

        monkeypatch.setattr(build_module, "read_layers", read_layers)

    return tell


def tiny_in(precision, folder):
    spec = dataclasses.replace(TINY, precision=precision)
    return write_tiny(folder / f"{precision}.onnx", lambda model: helper.set_model_props(model, spec.to_metadata()))


def build_real(onnx, cache, **options):
    return build(onnx, cache, flavour=TENSORRT, gpu=CARD, **options)


def test_an_int8_engine_is_not_refused_for_its_int8_and_float_convolutions(tmp_path, tell, caplog):
    tell("Int8", "Int8", "Half", "Float")
    engine = build_real(tiny_in("int8", tmp_path), tmp_path / "cache", strict=True)
    assert engine.info.layer_precisions == {"int8": 2, "fp16": 1, "fp32": 1}
    assert not [warning for warning in engine.info.warnings if "asked for" in warning] and caplog.text == ""


@pytest.mark.parametrize(
    ("precision", "kinds", "words"),
    [
        ("fp16", ("Half", "Float"), "asked for fp16, but TensorRT built convolutions otherwise: 1 in fp32"),
        ("fp32", ("Float", "Int8"), "asked for fp32, but TensorRT built convolutions otherwise: 1 in int8"),
        ("int8", ("Float", "Half"), "asked for int8, but TensorRT built none of the 2 convolutions in it"),
        ("fp16", ("N/A due to dynamic shapes",), "does not tell in which precision the convolutions compute"),
    ],
)
def test_other_precisions_than_asked_for_are_a_warning_and_an_error_if_strict(
    tmp_path, tell, caplog, precision, kinds, words
):
    tell(*kinds)
    onnx = tiny_in(precision, tmp_path)
    engine = build_real(onnx, tmp_path / "cache")
    assert words in engine.info.warnings[0] and read_info(engine.path) == engine.info
    assert caplog.text.count(words) == 1
    # The one from the cache too, which is neither built nor asked again.
    tell(AssertionError("was asked again"))
    with pytest.raises(BackendError, match=words) as caught:
        build_real(onnx, tmp_path / "cache", strict=True)
    assert caught.value.arguments == ("strict",)
    again = build_real(onnx, tmp_path / "cache")
    assert again.from_cache and again.path == engine.path and caplog.text.count(words) == 2


def test_strict_keeps_what_it_refuses(tmp_path, tell):
    tell("Float")
    onnx = tiny_in("fp16", tmp_path)
    with pytest.raises(BackendError, match="asked for fp16"):
        build_real(onnx, tmp_path / "cache", strict=True)
    assert build_real(onnx, tmp_path / "cache").from_cache


@pytest.mark.parametrize("error", [BackendError("cannot load"), ValueError("no JSON"), RuntimeError("in\nTensorRT")])
def test_an_inspector_that_fails_costs_no_engine(tmp_path, tell, caplog, error):
    tell(error)
    engine = build_real(tiny_in("fp16", tmp_path), tmp_path / "cache")
    assert engine.info.layer_precisions is None and "\n" not in engine.info.warnings[0]
    assert "cannot be read back" in engine.info.warnings[0] and read_info(engine.path) == engine.info
    assert "does not tell" in caplog.text
    with pytest.raises(BackendError, match="does not tell"):
        build_real(tiny_in("fp16", tmp_path), tmp_path / "cache", strict=True)


def test_an_inspector_that_ends_the_process_costs_no_engine(tmp_path, tell):
    tell(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        build_real(tiny_in("fp16", tmp_path), tmp_path / "cache")
    assert build_real(tiny_in("fp16", tmp_path), tmp_path / "cache").from_cache


def test_a_build_is_on_the_card_that_it_is_for(tmp_path, tell):
    on_card = threading.local()
    seen = []

    @contextlib.contextmanager
    def current():
        on_card.depth = getattr(on_card, "depth", 0) + 1
        try:
            yield
        finally:
            on_card.depth -= 1

    tell("Half")
    engine = build(
        tiny_in("fp16", tmp_path),
        tmp_path / "cache",
        flavour=TENSORRT,
        gpu=dataclasses.replace(CARD, current=current),
        on_progress=lambda *_: seen.append(on_card.depth),
    )
    assert set(seen) == {1} and on_card.depth == 0
    assert engine.info.gpu == "NVIDIA L4"


# Stopping a build


@pytest.mark.alone
def test_ctrl_c_stops_a_build_and_leaves_nothing_behind(real_onnx, tmp_path):
    signalled, afterwards = [], []

    def interrupt_once(done, phase):
        if signalled:
            afterwards.append(done)
        # After the first phases, in the midst of the work; a whole build gives hundreds of reports.
        elif phase != "Building engine" and done > 0.1:
            signalled.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(real_onnx, tmp_path / "cache", on_progress=interrupt_once)
    assert time.perf_counter() - signalled[0] < 10
    assert max(afterwards, default=0) < 0.8, "the build went on to its end"
    assert engines_in(tmp_path / "cache") == []
    later = build(real_onnx, tmp_path / "cache")
    assert not later.from_cache and later.path.stat().st_size == later.info.size_bytes


# Mistakes


def check(options, flavour, gpu):
    check_options(BuildOptions(**options), flavour, gpu)


@pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible", "strict"])
def test_tensorrts_own_compatibility_is_refused_for_tensorrt_for_rtx(tiny_onnx, tmp_path, option):
    with pytest.raises(BackendError, match=f"{option}: not for tensorrt-rtx, which .*target_sm"):
        build(tiny_onnx, tmp_path / "cache", **{option: True})
    assert not (tmp_path / "cache").exists()


def test_tensorrt_takes_no_targets_and_needs_a_gpu(monkeypatch):
    # The one flavour stands in for the other, which may not be installed: no call gets as far as using it.
    monkeypatch.setattr(build_module, "load_bindings", lambda flavour: trt_rtx)
    with pytest.raises(BackendError, match="target_sm: not for tensorrt, which .*hardware_compatible"):
        check({"target_sm": (89,)}, TENSORRT, CARD)
    with pytest.raises(BackendError, match="builds on the GPU.*there is none; tensorrt-rtx builds without one"):
        check({}, TENSORRT, None)
    check({"version_compatible": True, "hardware_compatible": True}, TENSORRT, CARD)


def test_an_unknown_target_is_answered_with_those_that_exist(tiny_onnx, tmp_path):
    with pytest.raises(BackendError) as caught:
        build(tiny_onnx, tmp_path / "cache", target_sm=(75, 90))
    message = str(caught.value)
    assert "no target 90" in message
    listed = [int(number) for number in message.split("target_sm takes ")[1].split(", ")]
    assert listed == sorted(listed) and {75, 80, 86, 89, 120} <= set(listed) and 90 not in listed


def test_a_flavour_that_does_not_exist_is_named(tiny_onnx, tmp_path):
    with pytest.raises(BackendError, match="'cuda' does not exist; choose tensorrt, tensorrt-rtx"):
        build(tiny_onnx, tmp_path, flavour="cuda")


def add_det(model):
    """Standard ONNX, known to ONNX Runtime, and not to TensorRT's parser."""
    model.graph.node.append(helper.make_node("Det", ["boxes"], ["determinant"], name="node_det"))
    model.graph.output.append(helper.make_tensor_value_info("determinant", TensorProto.FLOAT, ["N"]))


def add_nms(model):
    model.graph.node.append(helper.make_node("Unsqueeze", ["scores", "one"], ["one_class"], name="node_unsqueeze"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    inputs = ["boxes", "one_class", "at_most"]
    model.graph.node.append(helper.make_node("NonMaxSuppression", inputs, ["selected"], name="node_nms"))
    model.graph.output.append(helper.make_tensor_value_info("selected", TensorProto.INT64, ["K", 3]))


def test_an_operator_that_tensorrt_lacks_is_named_with_its_node(tmp_path):
    path = write_tiny(tmp_path / "tiny.onnx", add_det)
    with pytest.raises(ModelError, match=r"tiny\.onnx: TensorRT cannot parse it: node node_det \(Det\): .*\w"):
        build(path, tmp_path / "cache")
    assert engines_in(tmp_path / "cache") == []


def test_an_operator_that_no_kernel_implements_is_named_with_its_node(tmp_path):
    path = write_tiny(tmp_path / "tiny.onnx", add_nms)
    with pytest.raises(BackendError, match=r"tiny\.onnx: tensorrt-rtx .* could not build .*node_nms.*no runners"):
        build(path, tmp_path / "cache")
    assert engines_in(tmp_path / "cache") == []


def test_an_operator_that_nobody_knows_is_named(tmp_path):
    def rename(model):
        model.graph.node[1].op_type = "Frobnicate"

    with pytest.raises(ModelError, match="not a usable ONNX file .*node_view.*Frobnicate"):
        build(write_tiny(tmp_path / "tiny.onnx", rename), tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such model file"),
        (b"", "is not a usable ONNX file"),
        (b"garbage", "is not a usable ONNX file"),
    ],
)
def test_a_file_that_is_no_model_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"model\.onnx: {message}.*ssd-deploy export"):
        build(path, tmp_path / "cache")


def test_a_model_of_somebody_else_is_refused(tmp_path):
    path = write_tiny(tmp_path / "tiny.onnx", lambda model: model.ClearField("metadata_props"))
    with pytest.raises(ModelError, match=r"tiny\.onnx: its metadata has no entry .*ssd-deploy export"):
        build(path, tmp_path / "cache")


def test_a_truncated_export_is_refused(real_onnx, tmp_path):
    path = tmp_path / "half.onnx"
    path.write_bytes(real_onnx.read_bytes()[: real_onnx.stat().st_size // 2])
    with pytest.raises(ModelError, match="not a usable ONNX file"):
        build(path, tmp_path / "cache")


# The timing cache, which is TensorRT's alone


class FakeConfig:
    """Stands for an `IBuilderConfig`: its measurements are bytes, and only those that it wrote itself fit it."""

    def __init__(self, measured=b""):
        self.measured, self.given = measured, []

    def create_timing_cache(self, saved):
        return SimpleNamespace(saved=saved, serialize=lambda: b"ours:" + saved)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.given.append(cache.saved)
        return cache.saved == b"" or cache.saved.startswith(b"ours:")

    def get_timing_cache(self):
        return self.create_timing_cache(self.measured) if self.measured is not None else None


@pytest.mark.parametrize(
    ("on_disk", "given"),
    [(None, [b""]), (b"ours:measured", [b"ours:measured"]), (b"of another version", [b"of another version", b""])],
)
def test_only_measurements_of_this_version_and_card_are_used(tmp_path, on_disk, given):
    path = tmp_path / "timing" / "x.cache"
    if on_disk is not None:
        path.parent.mkdir()
        path.write_bytes(on_disk)
    config = FakeConfig()
    cache_module.load_timing_cache(config, path)
    assert config.given == given


def test_measurements_are_saved_whole_or_not_at_all(tmp_path):
    path = tmp_path / "timing" / "x.cache"
    cache_module.save_timing_cache(FakeConfig(measured=None), path)
    assert files_in(tmp_path) == []
    cache_module.save_timing_cache(FakeConfig(b"measured"), path)
    assert path.read_bytes() == b"ours:measured" and files_in(tmp_path) == [Path("timing/x.cache")]


def test_measurements_that_cannot_be_saved_are_no_reason_to_lose_the_engine(tmp_path, caplog):
    (tmp_path / "timing").write_text("no folder")
    cache_module.save_timing_cache(FakeConfig(b"measured"), tmp_path / "timing" / "x.cache")
    assert "the next build measures again" in caplog.text


def test_the_json_of_a_plan_is_plain_json(built):
    values = json.loads(info_path(built[0].path).read_text(encoding="utf-8"))
    assert values["spec"]["network"] == NAME and values["options"]["max_batch"] == 8
    assert values["outputs"]["labels"] == {"dtype": "INT64", "shape": [-1, 100]}
