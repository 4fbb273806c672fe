"""How fast is a detector on a GPU, how much of the card is that, and what does post-processing cost?

    python benchmarks/gpu_inference.py [--json OUT.json] [--networks N,N] [--batch-sizes 1,2,4,8,16,32,64,128]

PyTorch as it is, channels-last, replayed as a CUDA graph and compiled, in float32 (no TF32), fp16 and bf16, and ONNX
Runtime in fp32 and fp16 where it has CUDA, plain and in each of its variants. Times go from the images in the GPU's
memory to the detections there, by the GPU's clock (ONNX Runtime's by the host's, synchronized); the network's alone are
those of the same network with nothing behind it. The operations of plain convolutions are compared with the rate of a
large matrix product in the same precision, measured in the same run; a library that needs fewer products for a
convolution comes out higher.

Variants of a batch size take turns. Compiling takes half a minute a batch size and precision, so it comes last and for
fewer batch sizes; every result is written when it is there. On a CPU, to try the script out:
`--device cpu --networks ssd_300_mobilenet0.25_voc --batch-sizes 1`; no CUDA graph there, and the host's clock.
"""

import argparse
import copy
import functools
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from _common.matrix_rate import matrix_tflops
from _common.turns import recorded_environment, rested_ms
from export.onnx import export_onnx
from ssd_deploy.backends.base import DeviceTimed, Runner
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.onnxruntime_options import provider_list
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_deploy.text_table import text_table
from ssd_train import build_network
from ssd_train.errors import SSDDeployError
from ssd_train.files import write_json
from ssd_train.networks.complexity import measure as measure_complexity
from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.precisions import in_precision

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VARIANTS: dict[str, dict[str, Any]] = {
    "eager": {"cuda_graph": False},
    "channels-last+eager": {"channels_last": True, "cuda_graph": False},
    "cuda-graph": {"cuda_graph": True},
    "channels-last+cuda-graph": {"channels_last": True, "cuda_graph": True},
}
COMPILED: dict[str, dict[str, Any]] = {
    "compile+channels-last+eager": {"compiled": True, "channels_last": True, "cuda_graph": False},
    "compile+channels-last+cuda-graph": {"compiled": True, "channels_last": True, "cuda_graph": True},
}
ONNX_RUNTIME = "onnxruntime:cuda"
ONNX_RUNTIME_VARIANTS = (("plain",), ("nhwc",), ("cuda-graph",), ("cuda-graph", "nhwc"))
ALONE = ", network alone"
# Timed calls of a turn: as many as fit into its time, within these bounds.
TURN_MS, FEWEST_CALLS, MOST_CALLS = 200.0, 3, 20

Images = NDArray[np.float32]


class NoPostprocess(Postprocess):
    """Leaves the raw predictions where detections are expected: only for timing."""

    def forward(self, cls_logits: Tensor, box_offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return cls_logits, box_offsets, box_offsets


def open_alone(network: SSD, **options: Any) -> TorchRunner:
    """Open a network with nothing behind it."""
    runner = TorchRunner(network, **options)
    runner.detector.postprocess = NoPostprocess(runner.spec.postprocess)
    return runner


def call_ms(runner: Runner, images: Images, calls: int) -> list[float]:
    """Return the milliseconds of calls, by the GPU's clock where there is one."""
    if isinstance(runner, DeviceTimed) and runner.device_clock is not None:
        return runner.device_times_ms(images, calls)
    return [rested_ms(functools.partial(runner.run, images), calls)]


def open_runners(
    network: SSD, device: str, variants: dict[str, dict[str, Any]], model: Path | None
) -> Iterator[tuple[str, Callable[[], Runner]]]:
    """Yield what opens each variant, whole and as the network alone; the two share their weights and compiled code."""
    for label, options in variants.items():
        own = copy.deepcopy(network)
        yield label, functools.partial(TorchRunner, own, device=device, **options)
        yield label + ALONE, functools.partial(open_alone, own, device=device, **options)
    if model is not None:
        for chosen in ONNX_RUNTIME_VARIANTS:
            label = "+".join((ONNX_RUNTIME, *chosen))
            yield label, functools.partial(OnnxRuntimeRunner, model, device="cuda", variants=chosen)


def measure_batch(openers: Iterable[tuple[str, Callable[[], Runner]]], images: Images, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of every variant that works with this batch; say which ones do not."""
    runners: dict[str, Runner] = {}
    calls: dict[str, int] = {}
    times: dict[str, list[float]] = {}
    for label, opener in openers:
        try:
            runners[label] = opener()
            warm = call_ms(runners[label], images, FEWEST_CALLS)[-1]
            calls[label] = max(FEWEST_CALLS, min(MOST_CALLS, int(TURN_MS / warm)))
        except SSDDeployError as error:
            print(f"{label}, batch {len(images)}: {error}", flush=True)
    for _ in range(rounds):
        for label, count in list(calls.items()):
            try:
                times.setdefault(label, []).extend(call_ms(runners[label], images, count))
            except SSDDeployError as error:
                print(f"{label}, batch {len(images)}: {error}", flush=True)
                del calls[label]
    for runner in runners.values():
        runner.close()
    return {label: statistics.median(times[label]) for label in calls}


def exported_for_cuda(network: SSD, folder: Path) -> Path | None:
    """Export for ONNX Runtime, if its CUDA is here and the precision can be exported."""
    try:
        provider_list("cuda", tensor_cores=False)
        return export_onnx(network, folder)
    except SSDDeployError as error:
        print(f"{network.spec.network}, {network.spec.precision}, {ONNX_RUNTIME}: {error}", flush=True)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="ssd_300_vgg16_atrous_voc,ssd_512_resnet50_v1_coco")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--batch-sizes", default="1,2,4,8,16,32,64,128")
    parser.add_argument("--compiled-batch-sizes", default="1,32", help="none: leave torch.compile out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    precisions = options.precisions.split(",")
    matrix = {precision: matrix_tflops(PRECISIONS[precision], device) for precision in precisions}
    print("matrix product, TFLOP/s: " + ", ".join(f"{name} {rate:.3g}" for name, rate in matrix.items()), flush=True)
    results: dict[str, Any] = {
        "environment": recorded_environment(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "matrix_tflops": matrix,
        "rows": [],
    }
    passes = [(VARIANTS, options.batch_sizes)]
    if options.compiled_batch_sizes != "none":
        passes.append((COMPILED, options.compiled_batch_sizes))
    with tempfile.TemporaryDirectory() as folder:
        for (all_variants, sizes), name, precision in itertools.product(
            passes, options.networks.split(","), precisions
        ):
            variants = {
                label: keywords
                for label, keywords in all_variants.items()
                if options.device == "cuda" or not keywords.get("cuda_graph")
            }
            config = network_config(name)
            gflops = measure_complexity(config).gflops
            network = in_precision(build_network(name, weights="random"), precision)
            is_exported = all_variants is VARIANTS and options.device == "cuda"
            model = exported_for_cuda(network, Path(folder)) if is_exported else None
            for batch in map(int, sizes.split(",")):
                shape = (batch, 3, *config.input_size)
                images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
                openers = open_runners(network, options.device, variants, model)
                times = measure_batch(openers, images, options.rounds)
                for label in (label for label in times if not label.endswith(ALONE)):
                    row = described(name, precision, label, batch, times, gflops, matrix[precision])
                    results["rows"].append(row)
                    print(*cells(row), sep="  ", flush=True)
                if options.json is not None:
                    write_json(options.json, results)
    header = ("network", "precision", "variant", "batch", "ms", "images/s", "post-processing", "share of matrix rate")
    print(text_table(header, [cells(row) for row in results["rows"]], left=3))


def described(
    name: str, precision: str, label: str, batch: int, times: dict[str, float], gflops: float, rate: float
) -> dict[str, Any]:
    images_per_second = batch / times[label] * 1e3
    alone = times.get(label + ALONE)
    return {
        "network": name,
        "precision": precision,
        "variant": label,
        "batch": batch,
        "ms": times[label],
        "network_ms": alone,
        "postprocess_share": None if alone is None else 1 - alone / times[label],
        "images_per_second": images_per_second,
        "share_of_matrix_rate": images_per_second * gflops / 1e3 / rate,
    }


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    share = row["postprocess_share"]
    return (
        *(row["network"], row["precision"], row["variant"], str(row["batch"])),
        f"{row['ms']:.2f}",
        f"{row['images_per_second']:.1f}",
        "-" if share is None else f"{100 * share:.1f} %",
        f"{100 * row['share_of_matrix_rate']:.1f} %",
    )


if __name__ == "__main__":
    main()
