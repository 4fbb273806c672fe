"""Exported files and engines: their bytes, graphs and descriptions, and the cache of engines."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import formats
import mutations
import numpy as np
import onnx
import onnxruntime
from cases import Kind, Seed
from kinds_weights import show
from onnx import TensorProto, helper, numpy_helper

from export.engine.cache import EngineRequest, engine_path, find_engine
from export.engine.check import read_plan
from export.engine.file import BuildOptions, EngineInfo, Gpu, TensorInfo, info_path, write_info
from export.file_metadata import CPU_GRAPH_KEY, WINOGRAD_KEY, Int8Target, Quantization, this_cpu
from export.graph import load_exported
from ssd_deploy.detecting import detect_sources
from ssd_deploy.detector import load_detector
from ssd_deploy.model_source import find_model
from ssd_deploy.saved_thresholds import keep_thresholds
from ssd_deploy.sources.open import open_sources
from ssd_train.errors import SSDDeployError
from ssd_train.spec import OUTPUT_NAMES, DetectorSpec, PostprocessSettings, WorkingThresholds

CLASSES = ("cat", "dog")
KEPT = 3
SPEC = DetectorSpec(
    network="tiny",
    class_names=CLASSES,
    input_size=(8, 8),
    postprocess=PostprocessSettings(pre_nms_top_k=KEPT, max_detections=KEPT),
    weights="random, seed 0",
    weights_sha256="0" * 64,
    versions={"onnx": "1.0"},
)
THRESHOLDS = WorkingThresholds(overall=0.1, per_class={"cat": 0.2}, found_by="F1")
BOXES = np.array([[0, 0, 4, 4], [1, 1, 7, 7], [3, 2, 8, 8]], np.float32)
PICTURE = cv2.imencode(".png", np.full((20, 30, 3), 90, np.uint8))[1].tobytes()


def model(metadata: dict[str, str]) -> onnx.ModelProto:
    """The smallest graph that has what an exported one has: raw values, and three detections from them."""
    random = np.random.default_rng(0)
    sizes = {"cls_logits": len(CLASSES) + 1, "box_offsets": 4}
    constants = {
        f"{name}.weight": random.normal(size=(KEPT * size, 3, 8, 8)).astype(np.float32) for name, size in sizes.items()
    }
    constants |= {f"{name}.shape": np.array([0, KEPT, size]) for name, size in sizes.items()}
    constants |= {"nothing": np.float32(0), "anchors": BOXES, "first": np.array([1]), "last": np.array([9])}
    constants |= {"axes": np.array([2]), "kept": np.array([KEPT])}
    nodes = []
    for name in sizes:
        nodes.append(helper.make_node("Conv", ["images", f"{name}.weight"], [f"{name}.cells"], name=f"{name}.conv"))
        nodes.append(helper.make_node("Reshape", [f"{name}.cells", f"{name}.shape"], [name]))
    nodes += [
        helper.make_node("Mul", ["box_offsets", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "anchors"], ["boxes"]),
        helper.make_node("Softmax", ["cls_logits"], ["shares"], axis=2),
        helper.make_node("Slice", ["shares", "first", "last", "axes"], ["foreground"]),
        helper.make_node("ReduceMax", ["foreground", "axes"], ["best"], keepdims=0),
        helper.make_node("ArgMax", ["foreground"], ["which"], axis=2, keepdims=0),
        helper.make_node("TopK", ["best", "kept"], ["scores", "order"], axis=1),
        helper.make_node("GatherElements", ["which", "order"], ["labels"], axis=1),
    ]

    def value(name: str, kind: int, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("images", TensorProto.FLOAT, 3, 8, 8)],
        [
            value("boxes", TensorProto.FLOAT, KEPT, 4),
            value("scores", TensorProto.FLOAT, KEPT),
            value("labels", TensorProto.INT64, KEPT),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        value_info=[value(name, TensorProto.FLOAT, KEPT, size) for name, size in sizes.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(made, metadata)
    return made


QUANTIZATION = Quantization(
    target=Int8Target.PORTABLE, method="minmax", images=3, images_sha256="1" * 64, float_layers=("a", "b")
)
# What each export step leaves in a file.
METADATA = {
    "plain": SPEC.to_metadata(),
    "int8": dataclasses.replace(SPEC, precision="int8").to_metadata() | QUANTIZATION.to_metadata(),
    "cpu": SPEC.to_metadata() | {CPU_GRAPH_KEY: json.dumps(this_cpu(onnxruntime.__version__))},
    "winograd": SPEC.to_metadata() | {WINOGRAD_KEY: "F(4, 3)"},
    "thresholds": dataclasses.replace(SPEC, working_thresholds=THRESHOLDS).to_metadata(),
}


def files(folder: Path) -> Sequence[Seed]:
    """A file after each export step, and one whose weights lie beside it."""
    seeds = []
    for name, metadata in METADATA.items():
        content = {"a.png": PICTURE, f"{name}.onnx": model(metadata).SerializeToString()}
        seeds.append(Seed(files=content, target=f"{name}.onnx"))
    onnx.save(
        model(SPEC.to_metadata()),
        folder / "beside.onnx",
        save_as_external_data=True,
        location="beside.bin",
        size_threshold=1000,
    )
    content = {name: (folder / name).read_bytes() for name in ("beside.onnx", "beside.bin")}
    return [*seeds, Seed(files={"a.png": PICTURE, **content}, target="beside.onnx", is_refused=True)]


def read_onnx(folder: Path, path: Path, out: Path) -> None:
    """Describe a file, detect with it and write all results, read its graph, and keep thresholds in it."""

    def detect() -> None:
        with load_detector(path) as detector:
            detector.detect(np.zeros((9, 9, 3), np.uint8))
            results = ("pictures", "json", "coco", "yolo", "voc", "csv", "crops")
            detect_sources(detector, open_sources([folder / "a.png"]), out / "results", save=results)

    def keep() -> None:
        copy = out / "copy.onnx"
        copy.write_bytes(path.read_bytes())
        keep_thresholds(find_model(copy), WorkingThresholds(overall=0.5))

    all_of(lambda: show(path, out), detect, lambda: load_exported(path), keep)


def all_of(*reads: Callable[[], object]) -> None:
    """Read a file in several ways, and raise the first sentence that was said."""
    refused = None
    for read in reads:
        try:
            read()
        except SSDDeployError as error:
            refused = refused or error
    if refused is not None:
        raise refused


# --- Engines ---

PLAN = b"ftrt" + bytes(range(256))


def engine_info(flavour: str) -> EngineInfo:
    return EngineInfo(
        flavour=flavour,
        tensorrt_version="1.7.1.116",
        spec=dataclasses.replace(SPEC, working_thresholds=THRESHOLDS),
        options=BuildOptions(target_sm=(75, 120) if flavour == "tensorrt-rtx" else ()),
        inputs={"images": TensorInfo(dtype="FLOAT", shape=(-1, 3, 8, 8))},
        outputs={"boxes": TensorInfo(dtype="FLOAT", shape=(-1, 3, 4))},
        gpu=None if flavour == "tensorrt-rtx" else "NVIDIA L4",
        compute_capability=None if flavour == "tensorrt-rtx" else "8.9",
        onnx_sha256="b" * 64,
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        size_bytes=len(PLAN),
        build_seconds=1.5,
        layer_precisions={"fp16": 60},
        warnings=("a warning",),
    )


FLAVOURS = ("tensorrt", "tensorrt-rtx")


def request(flavour: str) -> EngineRequest:
    """What an export asks the cache for, which `engine_info` is the answer to."""
    info = engine_info(flavour)
    gpu = Gpu(name=info.gpu, compute_capability=info.compute_capability, device_layer="") if info.gpu else None
    return EngineRequest(
        onnx=Path("a.onnx"),
        onnx_sha256=info.onnx_sha256,
        spec=info.spec,
        options=info.options,
        flavour=flavour,
        version=info.tensorrt_version,
        gpu=gpu,
        outputs=OUTPUT_NAMES,
    )


def engines(suffix: str) -> Callable[[Path], Sequence[Seed]]:
    """Return a function to seeds: an engine of each flavour in a cache, one of whose files is changed."""

    def make(folder: Path) -> Sequence[Seed]:
        seeds = []
        for flavour in FLAVOURS:
            path = engine_path(folder, request(flavour).name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(PLAN)
            write_info(path, engine_info(flavour))
            content = {f"engines/{each.name}": each.read_bytes() for each in (path, info_path(path))}
            seeds.append(Seed(files=content, target=f"engines/{path.name}{suffix}"))
        return seeds

    return make


def read_engine(folder: Path, path: Path, out: Path) -> None:
    """Describe an engine, take it from a cache, read its plan, and keep thresholds with it."""
    engine = path.with_name(path.name.removesuffix(".json"))
    all_of(
        lambda: [find_engine(folder, request(flavour)) for flavour in FLAVOURS],
        lambda: show(engine, out),
        lambda: read_plan(engine),
        lambda: keep_thresholds(find_model(engine), WorkingThresholds(overall=0.5)),
    )


KINDS = (
    Kind(name="onnx-metadata", seeds=files, read=read_onnx, change=formats.change_onnx_metadata, weight=3),
    Kind(name="onnx-graph", seeds=files, read=read_onnx, change=formats.change_onnx_graph, weight=2),
    Kind(
        name="engine-json",
        seeds=engines(".json"),
        read=read_engine,
        change=mutations.change_json,
        weight=1.5,
        rewrites=True,
    ),
    Kind(name="engine-plan", seeds=engines(""), read=read_engine, weight=0.5, rewrites=True),
)
