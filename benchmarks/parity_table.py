"""Do all backends compute what PyTorch computes, network by network? Prints a Markdown table.

    python benchmarks/parity_table.py --params FOLDER --data-root COCO --json OUT.json --precision fp32,fp16 \
        [--score-threshold 0.3] NETWORK...

FOLDER holds `NETWORK.params` files as GluonCV saves them, COCO is a data set in COCO's layout. Each
network is loaded, exported to ONNX and run over every image in PyTorch and in all backends that work.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from export.onnx import export_onnx
from ssd_deploy.parity.criteria import Criteria
from ssd_deploy.parity.report import ParityOutcome
from ssd_deploy.parity.run import run as run_parity
from ssd_deploy.progress import image_progress
from ssd_train import build_network
from ssd_train.datasets.source import find_source
from ssd_train.files import write_json
from ssd_train.metrics.protocol import Protocol
from ssd_train.precisions import in_precision


def measure(name: str, params: Path, data_root: Path, precisions: list[str], score_threshold: float) -> ParityOutcome:
    """Export one network and compare every backend with float32 PyTorch on a COCO data set, batch size 1."""
    network = build_network(name, weights=params)
    dataset = find_source("coco", data_root).load(None, network.spec.class_names)
    with tempfile.TemporaryDirectory() as folder:
        return run_parity(
            network,
            [export_onnx(in_precision(network, precision), Path(folder)) for precision in precisions],
            dataset,
            metric="coco",
            protocol=Protocol.STANDARD,
            criteria=Criteria(score_threshold=score_threshold),
            workers=1,
            show_progress=image_progress,
        )


def rows(outcome: ParityOutcome) -> list[str]:
    """Return a Markdown row for each backend beside PyTorch."""
    name, reference = outcome.reference.runner.spec.network, outcome.reference.report
    assert reference is not None
    lines = []
    for comparison in outcome.comparisons:
        raw = max(stage.difference for stage in comparison.stages if stage.name.startswith("raw"))
        lines.append(
            f"| {name} | {comparison.backend} | {comparison.precision} "
            f"| {100 * reference.headline:.4f} | {100 * comparison.metric:.4f} "
            f"| {comparison.agreement:.6f} | {raw:.1e} | {comparison.score_difference:.1e} "
            f"| {comparison.box_difference:.1e} | {comparison.unmatched} of {2 * comparison.matched} "
            f"| {'FAIL' if comparison.failures else 'pass'} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--precision", default="fp32", help="such as fp32,fp16")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="of what counts; random weights score less")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "cpu_threads": os.cpu_count(),
        "networks": {},
    }
    table = [
        "| network | backend | precision | AP of PyTorch | AP "
        "| agreement AP | raw | score | box px | unmatched | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in options.networks:
        params, precisions = options.params / f"{name}.params", options.precision.split(",")
        outcome = measure(name, params, options.data_root, precisions, options.score_threshold)
        print(outcome.text(), flush=True)
        summary = outcome.to_dict()
        # The comparison of every image is for looking into a failure; the table does not need it.
        for comparison in summary["comparisons"]:
            del comparison["images"], comparison["per_class_difference"]
        del summary["reference"]["report"]["per_class"]
        results["networks"][name] = summary
        table += rows(outcome)
        write_json(options.json, results)
    print("\n".join(table))


if __name__ == "__main__":
    main()
