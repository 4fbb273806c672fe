"""What do decode and NMS cost beside the network?

    python benchmarks/postprocess.py [--json OUT.json] [--device cuda|cpu] [--networks N,N] [--batch-sizes 1,8]

Milliseconds of decode and NMS alone, on raw predictions that are there already, and of the network alone; the share is
that of the first in their sum. On a GPU PyTorch as it is and replayed as a CUDA graph, with the network in fp32 (no
TF32) and in fp16, by the GPU's clock; on a CPU PyTorch as it is and ONNX Runtime, in fp32. Every number is printed and
written when it is there, and what does not work costs its own number alone.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from _common.turns import recorded_environment, rested_ms
from export.graph import network_only
from export.onnx import export_onnx
from export.session import open_session
from ssd_deploy.backends.pytorch import prepare_gpu
from ssd_deploy.backends.torch_graphs import RUNS_BEFORE_CAPTURE, captured, times_ms
from ssd_train import build_network
from ssd_train.files import write_json
from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.ssd import SSD
from ssd_train.precisions import in_precision
from ssd_train.spec import INPUT_NAME, OUTPUT_NAMES, RAW_NAMES

PRECISIONS = {"cuda": ("fp32", "fp16"), "cpu": ("fp32",)}
CALLS = {"cuda": 30, "cpu": 5}
SECONDS = {"cuda": 150.0, "cpu": math.inf}

Call = Callable[[], object]
# Decode and NMS, then the network.
Pair = tuple[Call, Call]


def gpu_ms(call: Call, calls: int) -> float:
    """Return the median milliseconds by the GPU's clock, after three calls that are not timed."""
    for _ in range(RUNS_BEFORE_CAPTURE):
        call()
    return statistics.median(times_ms(call, torch.device("cuda"), calls))


def replayed(call: Call) -> Call:
    """Record a call as a CUDA graph, and return its replay."""
    return captured(call, torch.device("cuda"))[0].replay


def raw_predictions(network: SSD, batch: int) -> tuple[Tensor, Tensor]:
    """Values as a trained network's: nearly all anchors are background, some hundred candidates are not."""
    generator = torch.Generator().manual_seed(0)
    anchors, columns = len(network.anchors), len(network.spec.class_names) + 1
    cls_logits = 2 * torch.randn(batch, anchors, columns, generator=generator)
    cls_logits[..., 0] += 6
    return cls_logits, torch.randn(batch, anchors, 4, generator=generator)


def in_pytorch(network: SSD, batch: int, device: str) -> Pair:
    network = network.to(device, memory_format=torch.channels_last)
    images = torch.randn(batch, 3, *network.spec.input_size, device=device)
    cls_logits, box_offsets = (value.to(device) for value in raw_predictions(network, batch))
    postprocess = Postprocess(network.spec.postprocess)
    return lambda: postprocess(cls_logits, box_offsets, network.anchors), lambda: network(images)


def in_onnxruntime(model: onnx.ModelProto, network: SSD, batch: int) -> Pair:
    parts = onnx.utils.Extractor(model).extract_model(list(RAW_NAMES), list(OUTPUT_NAMES)), network_only(model)
    behind, before = (open_session(part.SerializeToString(), network.spec.network) for part in parts)
    raw = {name: value.numpy() for name, value in zip(RAW_NAMES, raw_predictions(network, batch), strict=True)}
    images = {INPUT_NAME: torch.randn(batch, 3, *network.spec.input_size).numpy()}
    return lambda: behind.run(None, raw), lambda: before.run(None, images)


def ways(
    network: SSD, batch: int, device: str, model: onnx.ModelProto | None
) -> Iterator[tuple[str, Callable[[], Pair]]]:
    """Yield each way of running both parts, and what makes it ready."""
    yield "eager", lambda: in_pytorch(network, batch, device)
    if device == "cuda":
        yield "cuda-graph", lambda: tuple(map(replayed, in_pytorch(network, batch, device)))  # type: ignore[return-value]
    if model is not None:
        yield "onnxruntime", lambda: in_onnxruntime(model, network, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="ssd_300_vgg16_atrous_voc,ssd_512_resnet50_v1_coco")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--device", choices=tuple(PRECISIONS), default="cuda")
    parser.add_argument(
        "--seconds", type=float, help="no new number is begun after them; 150 on a GPU, no limit on a CPU"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device; try the script out with --device cpu")
    end = time.monotonic() + (options.seconds or SECONDS[options.device])
    device = options.device
    prepare_gpu(False)
    results: dict[str, Any] = {"environment": recorded_environment(), "rows": []}
    results["device"] = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    measure = gpu_ms if device == "cuda" else rested_ms
    with torch.inference_mode():
        for name in options.networks.split(","):
            float_network = build_network(name, weights="random").eval()
            model = exported(float_network) if device == "cpu" else None
            for precision in PRECISIONS[device]:
                network = in_precision(float_network, precision)
                for batch in map(int, options.batch_sizes.split(",")):
                    for way, make in ways(network, batch, device, model):
                        label = f"{name}, {precision}, batch {batch}, {way}"
                        if time.monotonic() > end:
                            print(f"{label}: no time left", flush=True)
                            continue
                        try:
                            behind, before = (measure(call, CALLS[device]) for call in make())
                        except RuntimeError as error:  # of CUDA and of libraries alike
                            print(f"{label}: {error}", flush=True)
                            continue
                        share = behind / (behind + before)
                        row = {"network": name, "precision": precision, "batch": batch, "way": way}
                        results["rows"].append(row | {"postprocess_ms": behind, "network_ms": before, "share": share})
                        print(f"{label}: decode and NMS {behind:.3f} ms, network {before:.3f}, {share:.1%}", flush=True)
                        if options.json:
                            write_json(options.json, results)


def exported(network: SSD) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        return onnx.load(export_onnx(network, Path(folder)))


if __name__ == "__main__":
    main()
