"""Which small backbone of torchvision's is worth a row of the table? Accuracy at equal epochs beside speed.

    python benchmarks/small_backbones.py --out FOLDER [--json OUT.json] [--data shapes] [--input 160] [--epochs 10]

Each candidate learns the generated pictures (or BCCD, blood cells) from random weights by the recipe `small`: the same
input, the same images in the same order, as many epochs. Its moving average after the last epoch is scored on pictures
that it was not trained on; nothing is chosen by a score. Pretrained weights would help some more than others, and are
no part of this. Then each is exported, quantized with its training pictures, scored again in int8, and timed at
`--timed-input`: the variants take turns in one run.

An interrupted training goes on where it was, and a finished one is not repeated. `--train-only --backbones a,b` trains
some, beside another process for instance.
"""

import argparse
import dataclasses
import functools
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait by spinning slow everything beside them

import cv2
import numpy as np
import torch
from torchvision import models

from _common.turns import recorded_environment, rested_ms, take_turns, test_data
from export.graph import Difference
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from export.steps import STEPS
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.openvino import OpenVINORunner
from ssd_deploy.text_table import text_table
from ssd_train import build_network
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.source import find_source
from ssd_train.errors import ModelError, first_line
from ssd_train.evaluation.evaluate import score
from ssd_train.evaluation.loop import run_detector
from ssd_train.files import write_json
from ssd_train.metrics.agreement import agreement_ap
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.build import BACKBONES
from ssd_train.networks.complexity import measure as complexity
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.feature_expander import ExpandedFeatures
from ssd_train.networks.torchvision_backbones import TorchvisionBackbone, TorchvisionNetwork, classifier
from ssd_train.networks.zoo import (
    NETWORKS,
    SIX_LEVELS,
    SIZES_512_SMALL,
    STEPS_512_FROM_16,
    network_config,
    squares,
)
from ssd_train.preprocess import preprocess
from ssd_train.training.config import TrainingConfig
from ssd_train.training.loop import train
from ssd_train.training.recipes import RECIPES
from ssd_train.weights.store import LAST_NAME

TRAIN_PICTURES, VAL_PICTURES = 240, 100
CALIBRATION_PICTURES = 60
COMPARED_PICTURES = 8
FILTERS = (256, 256, 128, 128)

REGNET_STAGES = (("stem",), *((f"trunk_output.block{block}",) for block in (1, 2, 3, 4)))

# Rows of the project's table, the first of them to compare with.
OWN = ("mobilenet0.25", "mobilenet_v3_large", "regnet_x_400mf")
# What has no row in the project's own table.
CANDIDATES = {
    "regnet_y_400mf": TorchvisionNetwork(
        build=lambda: classifier("regnet_y_400mf"), stages=REGNET_STAGES, channels=(208, 440)
    ),
    "efficientnet_b0": TorchvisionNetwork(
        # Without layers that are left out by chance.
        build=lambda: models.efficientnet_b0(weights=None, stochastic_depth_prob=0.0),
        stages=tuple(
            tuple(f"features.{index}" for index in stage)
            for stage in (range(2), range(2, 3), range(3, 4), range(4, 6), range(6, 8))
        ),
        channels=(112, 320),
    ),
    "shufflenet_v2_x1_0": TorchvisionNetwork(
        build=lambda: classifier("shufflenet_v2_x1_0"),
        stages=(("conv1",), ("maxpool",), ("stage2",), ("stage3",), ("stage4",)),
        channels=(232, 464),
    ),
    "mnasnet1_0": TorchvisionNetwork(
        build=lambda: classifier("mnasnet1_0"),
        stages=tuple(
            tuple(f"layers.{index}" for index in stage)
            for stage in (range(8), range(8, 9), range(9, 10), range(10, 12), range(12, 14))
        ),
        channels=(96, 320),
    ),
}


def add_candidates() -> None:
    """Give every candidate a row of each table."""
    for name, row in CANDIDATES.items():
        BACKBONES[name] = lambda size, row=row: ExpandedFeatures(TorchvisionBackbone(row), FILTERS)  # type: ignore[misc]
        network = f"ssd_512_{name}_custom"
        NETWORKS[network] = NetworkConfig(
            name=network,
            backbone=name,
            input_size=(512, 512),
            class_names=(),
            feature_sizes=squares(32, 16, 8, 4, 2, 1),
            sizes=SIZES_512_SMALL,
            ratios=SIX_LEVELS,
            steps=STEPS_512_FROM_16,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """A data set.

    Attributes:
        folder: Pascal VOC layout.
        held_out: the image list that is scored.
    """

    folder: Path
    held_out: str


def find_data(name: str, out: Path) -> Data:
    if name == "bccd":
        return Data(folder=test_data() / "bccd", held_out="test")
    return Data(folder=write_shapes(out / "shapes", train=TRAIN_PICTURES, val=VAL_PICTURES, seed=1), held_out="val")


def train_one(name: str, data: Data, options: argparse.Namespace) -> Path:
    """Train a candidate unless it is; return its weights."""
    folder = options.out / f"{options.data}_{options.input}_{name}"
    finished = folder / "finished"
    if not finished.is_file():
        values: dict[str, Any] = RECIPES["small"].values | {
            "network": f"ssd_{options.input}_{name}_custom",
            "dataset": str(data.folder),
            "train_split": "train",
            "val_split": "val",
            "out": folder,
            "lr": options.lr,
            "epochs": options.epochs,
            "patience": None,
            "val_interval": options.epochs,
            "pretrained_backbone": "none",
            "workers": 0,
            "resume": "auto",
            "device": "cpu",
        }
        result = train(TrainingConfig(**values))
        if result.exit_code:
            raise SystemExit(result.exit_code)
        finished.touch()
    return folder / LAST_NAME


def measure(name: str, weights: Path, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Score what was trained, in float32 and int8."""
    network = build_network(f"ssd_{options.input}_{name}_custom", weights=weights)
    folder = weights.parent
    fp32 = export_onnx(network, folder)
    held_out = find_source("voc", data.folder).load(data.held_out, network.config.class_names)
    row: dict[str, Any] = {}
    found = {}
    for precision, path in (("fp32", fp32), ("int8", quantized(fp32, data))):
        runner = OnnxRuntimeRunner(path, threads=options.threads)
        found[precision] = run_detector(held_out.samples, runner.run, runner.spec)
        scored = score(held_out, found[precision], runner.spec, metric="voc", protocol=Protocol.STANDARD)
        row[f"{precision}_voc07"] = 100 * scored.headline
        scored = score(held_out, found[precision], runner.spec, metric="coco", protocol=Protocol.STANDARD)
        row[f"{precision}_ap"] = 100 * scored.headline
        runner.close()
    sizes = [sample.image_size for sample in held_out.samples]
    row["agreement_ap"] = 100 * agreement_ap(found["fp32"], found["int8"], sizes, len(network.config.class_names))
    return row


def quantized(fp32: Path, data: Data) -> Path:
    """Return the portable int8 file of an exported one."""
    options = QuantizeOptions(calibration_data=data.folder / "JPEGImages", calibration_images=CALIBRATION_PICTURES)
    made = STEPS["int8"].apply(fp32, fp32.parent, options).path
    assert made is not None
    return made


def time_all(names: list[str], data: Data, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Time networks of random weights at the timed input, all of them in turns, and hold int8 against float32.

    Returns:
        By backbone: `latency_ms` by variant, and `int8_rms`, how far raw predictions in int8 are from those in float32
        on pictures, as a share of their spread; or `int8_refused`, why there is no int8 file.
    """
    source = find_source("voc", data.folder)
    pictures = source.load(data.held_out, source.class_names()).samples[:COMPARED_PICTURES]
    found: dict[str, dict[str, Any]] = {}
    variants: dict[str, Callable[[], float]] = {}
    for name in names:
        network = build_network(
            f"ssd_{options.timed_input}_{name}_custom", weights="random", classes=source.class_names()
        )
        fp32 = export_onnx(network, options.out / "timed")
        files = {"fp32": fp32}
        found[name] = {"latency_ms": {}}
        try:
            files["int8"] = quantized(fp32, data)
        except ModelError as error:
            found[name]["int8_refused"] = first_line(error)
        images = np.stack([preprocess(sample.load_image(), network.spec) for sample in pictures])
        raw = {}
        for precision, path in files.items():
            for backend, runner in (
                ("onnxruntime", OnnxRuntimeRunner(path, threads=options.threads)),
                ("openvino", OpenVINORunner(path, threads=options.threads)),
            ):
                key = f"{name} {backend} {precision}"
                variants[key] = functools.partial(rested_ms, functools.partial(runner.run, images[:1]))
                if backend == "onnxruntime":
                    raw[precision] = runner.run_raw(images)
        if "int8" in raw:
            pairs = zip(("cls_logits", "box_offsets"), raw["fp32"], raw["int8"], strict=True)
            found[name]["int8_rms"] = {key: Difference.between(one, other).rms for key, one, other in pairs}
    for key, times in take_turns(variants, options.rounds).items():
        name, variant = key.split(" ", 1)
        found[name]["latency_ms"][variant] = statistics.median(times)
        found[name].setdefault("rounds_ms", {})[variant] = times
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for run folders and weights")
    parser.add_argument("--data", choices=("shapes", "bccd"), default="shapes")
    parser.add_argument("--input", default="160", help="of the trainings: a side, or width x height")
    parser.add_argument("--timed-input", default="320", help="of the networks that are timed")
    parser.add_argument("--backbones", default=",".join((*OWN, *CANDIDATES)), help="with commas between")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=RECIPES["small"].values["lr"], help="for 4 images a step")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--time-only", action="store_true", help="train and score nothing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environment = recorded_environment()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)
    options.out.mkdir(parents=True, exist_ok=True)
    add_candidates()
    data, names = find_data(options.data, options.out), options.backbones.split(",")
    weights = {} if options.time_only else {name: train_one(name, data, options) for name in names}
    if options.train_only:
        return
    rows = []
    class_names = find_source("voc", data.folder).class_names()
    for name, timed in time_all(names, data, options).items():
        at_timed = network_config(f"ssd_{options.timed_input}_{name}_custom", class_names)
        row = {"backbone": name} | dataclasses.asdict(complexity(at_timed)) | timed
        rows.append(row if options.time_only else row | measure(name, weights[name], data, options))
    print(table(rows))
    if options.json is not None:
        settings = {
            name: getattr(options, name)
            for name in ("data", "input", "timed_input", "epochs", "lr", "rounds", "threads")
        }
        write_json(options.json, {"environment": environment} | settings | {"results": rows})


def table(rows: list[dict[str, Any]]) -> str:
    scores = [name for name in ("fp32_voc07", "int8_voc07", "fp32_ap", "int8_ap") if name in rows[0]]
    header = ("backbone", "parameters", "GFLOPs", *rows[0]["latency_ms"], "int8 rms: classes", "boxes", *scores)
    return text_table(
        header,
        [
            (
                row["backbone"],
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['gflops']:.2f}",
                *(f"{row['latency_ms'].get(name, float('nan')):.1f}" for name in rows[0]["latency_ms"]),
                *([f"{value:.3f}" for value in row["int8_rms"].values()] if "int8_rms" in row else ["refused", ""]),
                *(f"{row[name]:.2f}" for name in scores),
            )
            for row in rows
        ],
        left=1,
    )


if __name__ == "__main__":
    main()
