"""What share of an image's time in ONNX Runtime do decode and NMS take?

    python benchmarks/postprocess_share.py [--json OUT.json] NETWORK...

Each network (random weights) is exported once; the file is timed as it is, and cut off at its raw
predictions. Both take turns, batch size 1, on the CPU, so that a drift of the machine meets both.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from export.onnx_export import export_onnx
from export.quantize import network_only
from ssd_train import build_network
from ssd_train.evaluation.files import write_json
from ssd_train.evaluation.spec import OUTPUT_NAMES, RAW_NAMES

WARM_UP = 5


def measure(name: str, runs: int) -> dict[str, float]:
    """Return median times in milliseconds, and the share of decode and NMS as the median over pairs of runs."""
    network = build_network(name, weights="random")
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(network, Path(folder))
        whole = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        cut = onnxruntime.InferenceSession(
            network_only(onnx.load(path)).SerializeToString(), providers=["CPUExecutionProvider"]
        )
    image = np.random.default_rng(0).normal(size=(1, 3, *network.spec.input_size)).astype(np.float32)
    times: dict[str, list[float]] = {"whole": [], "cut": []}
    for run in range(WARM_UP + runs):
        for key, session, outputs in (("whole", whole, OUTPUT_NAMES), ("cut", cut, RAW_NAMES)):
            start = time.perf_counter()
            session.run(outputs, {"images": image})
            if run >= WARM_UP:
                times[key].append((time.perf_counter() - start) * 1e3)
    shares = [1 - cut_ms / whole_ms for cut_ms, whole_ms in zip(times["cut"], times["whole"], strict=True)]
    return {
        "whole_ms": statistics.median(times["whole"]),
        "network_ms": statistics.median(times["cut"]),
        "share": statistics.median(shares),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["ssd_300_vgg16_atrous_voc", "ssd_512_mobilenet1.0_coco"])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "cpu_threads": os.cpu_count()}
    for name in options.networks:
        results[name] = measure(name, options.runs)
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in results[name].items()), flush=True)
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
