"""Which small backbone of torchvision's is worth a row of the table? Accuracy at equal epochs beside speed.

    python benchmarks/small_backbones.py --out FOLDER [--json OUT.json] [--epochs 30] [--backbones a,b] [--train-only]

Each candidate is learned on BCCD (blood cells, three classes) from random weights by the recipe `small`, at the same
input, with the same images in the same order, and its moving average after the last epoch is scored on the test list:
nothing is chosen by a score. Pretrained weights would help some more than others, and are not part of this.
Then each is exported, quantized with the recipe's calibration images, scored again in int8, and timed in one run:
variants take turns.
An interrupted training goes on where it was, and a finished one is not repeated.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait by spinning slow everything beside them

import cv2
import torch
from torchvision import models

from _common.turns import test_data
from ssd_train.networks.build import BACKBONES
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.feature_expander import ExpandedFeatures
from ssd_train.networks.torchvision_backbones import TorchvisionBackbone, TorchvisionNetwork
from ssd_train.networks.zoo import NETWORKS, SIX_LEVELS, SIZES_512_SMALL, STEPS_512_FROM_16, squares
from ssd_train.training.config import TrainingConfig
from ssd_train.training.loop import train
from ssd_train.training.recipes import RECIPES
from ssd_train.weights.store import LAST_NAME

INPUT = "320x256"  # pictures are 640 x 480
FILTERS = (256, 256, 128, 128)

REGNET_STAGES = (("stem",), *((f"trunk_output.block{block}",) for block in (1, 2, 3, 4)))

# What has no row in the project's own table.
CANDIDATES = {
    "mobilenet_v3_large": TorchvisionNetwork(
        build=lambda: models.mobilenet_v3_large(weights=None),
        stages=tuple(
            tuple(f"features.{index}" for index in stage)
            for stage in (range(2), range(2, 4), range(4, 7), range(7, 13), range(13, 17))
        ),
        channels=(112, 960),
    ),
    "regnet_x_400mf": TorchvisionNetwork(
        build=lambda: models.regnet_x_400mf(weights=None), stages=REGNET_STAGES, channels=(160, 400)
    ),
    "regnet_y_400mf": TorchvisionNetwork(
        build=lambda: models.regnet_y_400mf(weights=None), stages=REGNET_STAGES, channels=(208, 440)
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
        build=lambda: models.shufflenet_v2_x1_0(weights=None),
        stages=(("conv1",), ("maxpool",), ("stage2",), ("stage3",), ("stage4",)),
        channels=(232, 464),
    ),
    "mnasnet1_0": TorchvisionNetwork(
        build=lambda: models.mnasnet1_0(weights=None),
        stages=tuple(
            tuple(f"layers.{index}" for index in stage)
            for stage in (range(8), range(8, 9), range(9, 10), range(10, 12), range(12, 14))
        ),
        channels=(96, 320),
    ),
}


def add_candidates() -> None:
    """Give every candidate that is no backbone of the project a row of each table."""
    for name, row in CANDIDATES.items():
        if name in BACKBONES:
            continue
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


def train_one(name: str, options: argparse.Namespace) -> Path:
    folder = options.out / name
    if (folder / "finished").is_file():
        return folder
    values: dict[str, Any] = RECIPES["small"].values | {
        "network": f"ssd_{INPUT}_{name}_custom",
        "dataset": str(options.data_root),
        "train_split": "train",
        "val_split": "val",
        "out": folder,
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
    (folder / "finished").write_text(json.dumps({"weights": LAST_NAME}), encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for run folders and weights")
    parser.add_argument("--data-root", type=Path, default=test_data() / "bccd")
    parser.add_argument("--backbones", default=",".join(("mobilenet0.25", *CANDIDATES)), help="with commas between")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)
    options.out.mkdir(parents=True, exist_ok=True)
    add_candidates()
    for name in options.backbones.split(","):
        train_one(name, options)


if __name__ == "__main__":
    main()
