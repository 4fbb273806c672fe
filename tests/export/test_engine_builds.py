"""Every network of the table is exported and really built, in float, half and int8, with TensorRT for RTX.

Two rectangles are, too. All of them take minutes, so that they are marked `engines` and left out by `make test`; three,
one of each kind, are marked `engines_ci` too, for CI.
Networks are built in processes of their own, one a core, since tracing and building use one core each.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.engine.file import BuildOptions, EngineInfo, TensorInfo, read_info
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.files import sha256_of_file
from ssd_train.networks.zoo import NETWORKS, find_network

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")

# In int8 with the usual options alone, directly behind the float32 file that it is made of.
PRECISIONS = ("fp32", "int8", "fp16")
CALIBRATION_PICTURES = 2
CUSTOM_CLASSES = ("bolt", "nut", "washer")
# VGG's last level has a border of its own at sizes that are not in the table.
RECTANGLES = ("ssd_160x96_mobilenet0.25_custom", "ssd_160x96_vgg16_atrous_custom")
NAMES = (*NETWORKS, *RECTANGLES)
# Turing, which the portable default leaves out, then one of every later generation.
TARGETS = (75, 86, 89, 120)
TARGET_OF = {name: TARGETS[index % len(TARGETS)] for index, name in enumerate(NAMES)}

# One of each kind: plain convolutions, residual sums, depthwise convolutions in a rectangle. Engines of the latter at
# 300 pixels are built by tests of the command line and of int8.
CI_ROWS = ("ssd_300_vgg16_atrous_voc", "ssd_512_resnet18_v1_custom", RECTANGLES[0])

# The first network of a backbone and size is compared with PyTorch on all batches of an ordinary export. The others
# differ in their anchors and in the channels of the predictors alone, so that one untraced batch tells the same.
FULLY_CHECKED = {(find_network(name).backbone, find_network(name).input_size): name for name in reversed(NAMES)}
ONE_BATCH = (1,)

# The parser's only remark: labels are int64, which TensorRT supports. All others would be about lost precision.
INT64_NOTE = "Make sure output labels has Int64 binding."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """One engine as it was found on the disk, before it was deleted."""

    precision: str
    options: BuildOptions
    from_cache: bool
    info: EngineInfo
    info_on_disk: EngineInfo
    plan_size: int
    plan_sha256: str
    onnx_sha256: str
    onnx_size: int


def build_row(name: str, options: tuple[BuildOptions, ...], folder: Path) -> list[Built]:
    """Export a network at each precision and build it with each of the options; leaves no file behind."""
    import torch

    from export import onnx as onnx_export
    from export.engine.build import build_engine
    from export.engine.flavours import TENSORRT_RTX
    from export.quantize_options import QuantizeOptions
    from export.steps import STEPS
    from ssd_train import build_network
    from ssd_train.precisions import in_precision

    torch.set_num_threads(1)
    all_batches = onnx_export.CHECKED_BATCHES
    if name not in FULLY_CHECKED.values():
        onnx_export.CHECKED_BATCHES = ONE_BATCH
    built = []
    pictures = folder / "pictures"
    write_shapes(pictures, train=CALIBRATION_PICTURES, val=1, seed=0)
    try:
        network = build_network(
            name, weights="random", classes=CUSTOM_CLASSES if not find_network(name).class_names else None
        )
        for precision in PRECISIONS:
            if precision == "int8":
                float_file = folder / f"{name}.fp32.onnx"
                int8 = QuantizeOptions(calibration_data=pictures, calibration_method="minmax")
                onnx = STEPS["int8"].apply(float_file, folder, int8).path
                assert onnx is not None
            else:
                onnx = onnx_export.export_onnx(in_precision(network, precision), folder)
            for each in options_of(precision, options):
                engine = build_engine(onnx, each, flavour=TENSORRT_RTX, gpu=None, cache=folder)
                built.append(
                    Built(
                        precision=precision,
                        options=each,
                        from_cache=engine.from_cache,
                        info=engine.info,
                        info_on_disk=read_info(engine.path),
                        plan_size=engine.path.stat().st_size,
                        plan_sha256=sha256_of_file(engine.path),
                        onnx_sha256=sha256_of_file(onnx),
                        onnx_size=onnx.stat().st_size,
                    )
                )
                engine.path.unlink()
    finally:
        onnx_export.CHECKED_BATCHES = all_batches
        shutil.rmtree(folder, ignore_errors=True)
    return built


def options_of(precision: str, options: tuple[BuildOptions, ...]) -> tuple[BuildOptions, ...]:
    return options[:1] if precision == "int8" else options


def every_option(name: str) -> tuple[BuildOptions, ...]:
    return BuildOptions(), BuildOptions(max_batch=1), BuildOptions(target_sm=(TARGET_OF[name],))


class Rows:
    """Rows of the table that are being built, in the order in which they are asked for."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self.start = time.perf_counter()
        self.engines = 0
        self._pool = concurrent.futures.ProcessPoolExecutor(
            min(len(names), os.cpu_count() or 1), mp_context=multiprocessing.get_context("spawn")
        )
        self._futures = {name: self._pool.submit(build_row, name, every_option(name), folder / name) for name in names}

    def built(self, name: str) -> list[Built]:
        built = self._futures[name].result()
        self.engines += len(built)
        return built

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    """The rows of the tests that were selected."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    started = Rows([item.callspec.params["name"] for item in items], tmp_path_factory.mktemp("engines"))
    yield started
    started.close()
    seconds = time.perf_counter() - started.start
    plugins = request.config.pluginmanager
    with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
        plugins.get_plugin("terminalreporter").write_line(
            f"\n{started.engines} engines of TensorRT for RTX in {seconds:.0f} seconds"
        )


@pytest.mark.engines
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.engines_ci if name in CI_ROWS else ()) for name in NAMES]
)
def test_a_network_builds_in_every_precision(name: str, rows: Rows) -> None:
    built = rows.built(name)
    assert [(each.precision, each.options) for each in built] == [
        (precision, options) for precision in PRECISIONS for options in options_of(precision, every_option(name))
    ]
    for each in built:
        assert_is_right(each, name)
    sizes = {
        precision: next(each for each in built if each.precision == precision).onnx_size for precision in PRECISIONS
    }
    # Weights of convolutions are halved; graph, anchors and the norms that stay float32 are not.
    assert 0.5 < sizes["fp16"] / sizes["fp32"] < 0.56
    assert 0.25 < sizes["int8"] / sizes["fp32"] <= 0.3
    for options in every_option(name):
        plans = {each.precision: each.plan_size for each in built if each.options == options}
        assert plans["fp16"] < 0.75 * plans["fp32"], "a plan of half-precision weights is not much smaller"


def assert_is_right(built: Built, name: str) -> None:
    config, info = find_network(name), built.info
    assert not built.from_cache
    assert built.plan_size == info.size_bytes > 1 << 20
    assert built.plan_sha256 == info.plan_sha256 and built.onnx_sha256 == info.onnx_sha256
    # Weights cannot be pressed, so a plan without them would be far smaller than its ONNX file.
    assert built.plan_size > 0.9 * built.onnx_size
    assert built.info_on_disk == info
    assert (info.flavour, info.gpu, info.compute_capability) == ("tensorrt-rtx", None, None)
    assert info.options == built.options and info.layer_precisions is None and info.build_seconds > 0
    assert (info.spec.network, info.spec.precision, info.spec.mean) == (name, built.precision, config.mean)
    assert info.spec.class_names == (config.class_names or CUSTOM_CLASSES)
    assert info.inputs == {"images": TensorInfo(dtype="FLOAT", shape=(-1, 3, *config.input_size))}
    kept = config.postprocess.max_detections
    assert info.outputs == {
        "boxes": TensorInfo(dtype="FLOAT", shape=(-1, kept, 4)),
        "scores": TensorInfo(dtype="FLOAT", shape=(-1, kept)),
        "labels": TensorInfo(dtype="INT64", shape=(-1, kept)),
    }
    assert all(warning.endswith(INT64_NOTE) for warning in info.warnings), info.warnings


def test_every_target_is_built_for_and_every_row_has_one() -> None:
    assert set(TARGET_OF) == set(NAMES) and set(TARGET_OF.values()) == set(TARGETS)
    assert set(CI_ROWS) <= set(NAMES)
    assert set(FULLY_CHECKED.values()) <= set(NAMES) and len(FULLY_CHECKED) == 22
