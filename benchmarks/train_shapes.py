"""Make the weights that ship with the package: a small detector of generated shapes, trained on a CPU.

    python benchmarks/train_shapes.py --out runs/shapes --write ssd_train/weights/shapes.safetensors

Like every SSD it starts from a classifier: the backbone first learns to tell cut-out objects apart, which
costs a twentieth of a detector's step. Then two processes of one thread each train the detector, which on two
cores is half as fast again as one process of two threads: first on a third of the pictures, until those are
learned by heart, then on all. The best of its weights are stored in 8 bits and scored as they were stored.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ssd_deploy.backends.pytorch import TorchRunner
from ssd_train import build_network
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.generated import SHAPE_CLASSES
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.source import find_source
from ssd_train.evaluation.evaluate import score
from ssd_train.evaluation.loop import run_detector
from ssd_train.files import write_json
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.mobilenet import MobileNet
from ssd_train.spec import IMAGENET_MEAN, IMAGENET_STD
from ssd_train.training.augment import sample_colour
from ssd_train.training.config import resolve
from ssd_train.weights.network_file import save_network
from ssd_train.weights.weight_file import write_safetensors

NETWORK = "ssd_300_mobilenet0.25_custom"
SEED = 233
PROCESSES = 2
TRAIN_PICTURES, FIRST_PICTURES, VAL_PICTURES = 12_000, 4000, 500

CUTOUT = 64
# How much of an object's surroundings is cut out with it.
MARGIN = (0.9, 1.8)


def cut_out(dataset: Dataset, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (K, CUTOUT, CUTOUT, 3) uint8 cut-outs of all objects with random surroundings, and (K,) labels."""
    images, labels = [], []
    for sample in dataset.samples:
        picture = sample.load_image()
        for (x0, y0, x1, y1), label in zip(sample.ground_truth.boxes, sample.ground_truth.labels, strict=True):
            side = max(x1 - x0, y1 - y0) * rng.uniform(*MARGIN)
            x, y = (x0 + x1) / 2 + rng.uniform(-0.1, 0.1) * side, (y0 + y1) / 2 + rng.uniform(-0.1, 0.1) * side
            scale = CUTOUT / side
            move = np.array([[scale, 0, CUTOUT / 2 - x * scale], [0, scale, CUTOUT / 2 - y * scale]])
            images.append(cv2.warpAffine(picture, move, (CUTOUT, CUTOUT), borderMode=cv2.BORDER_REFLECT))
            labels.append(label)
    return np.stack(images), np.array(labels)


def train_backbone(dataset: Dataset, held_out: Dataset, epochs: int, path: Path) -> float:
    """Train a classifier of cut-outs, write its backbone under a detector's names, return its accuracy."""
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    images, labels = cut_out(dataset, rng)
    backbone = MobileNet(0.25)
    head = nn.Linear(backbone.channels[-1], len(SHAPE_CLASSES))
    model = nn.Sequential(backbone, _Last(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    model.to(memory_format=torch.channels_last)
    batch, steps = 64, epochs * len(images) // 64
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        chosen = rng.integers(len(images), size=batch)
        loss = nn.functional.cross_entropy(model(_augmented(images[chosen], rng)), torch.from_numpy(labels[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"classifier: step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    model.eval()
    images, labels = cut_out(held_out, rng)
    with torch.no_grad():
        found = torch.cat([model(_normalised(part)).argmax(1) for part in np.array_split(images, 20)]).numpy()
    state = {f"features.backbone.{name}": value for name, value in backbone.state_dict().items()}
    write_safetensors(path, state, {})
    return float((found == labels).mean())


class _Last(nn.Module):
    def forward(self, features: list[Tensor]) -> Tensor:
        return features[-1]


def _augmented(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Turn, mirror and distort the colours of cut-outs, and normalise them."""
    turned = np.stack([np.rot90(image, rng.integers(4))[:, :: rng.choice((-1, 1))] for image in images])
    maps = np.stack([sample_colour(rng) for _ in images])
    coloured = np.einsum("nhwc,ndc->nhwd", turned.astype(np.float32), maps[:, :, :3]) + maps[:, None, None, :, 3]
    return _normalised(coloured)


def _normalised(images: np.ndarray) -> Tensor:
    pixels = (images.astype(np.float32) / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def train_detector(out: Path, data: Path, options: dict[str, Any]) -> Path:
    """Train in two processes, or go on where an earlier call was stopped; returns the best weights."""
    config = resolve(
        None,
        {
            "network": NETWORK,
            "dataset": str(data),
            "out": out,
            "batch_size": 8,  # of each process
            "lr_mode": "cos",
            "warmup_iters": 200,
            # Pictures are drawn, so there is no want of them that parts of pictures would have to meet.
            "max_expansion": 1.0,
            "crop": False,
            "ema": True,
            "channels_last": True,
            "workers": 1,
            "log_step": 50,
            "val_interval": 2,
            "resume": "auto",
        }
        | options,
    )
    written = out.with_suffix(".json")
    write_json(written, config.to_dict())
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES), "-m", "ssd_train"]
    done = subprocess.run(
        [sys.executable, *command, "--config", str(written)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return out / "best.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and results")
    parser.add_argument("--write", type=Path, help="where the packed weights go; default in --out")
    parser.add_argument("--classifier-epochs", type=int, default=10)
    parser.add_argument("--first-epochs", type=int, default=15, help="of the detector, on the first pictures")
    parser.add_argument("--epochs", type=int, default=8, help="of the detector, on all pictures")
    arguments = parser.parse_args()
    out: Path = arguments.out
    started = time.perf_counter()
    data = write_shapes(out / "data", train=TRAIN_PICTURES, val=VAL_PICTURES, seed=1)
    # In the order that a training takes from annotations.
    class_names = sorted(SHAPE_CLASSES)
    splits = {name: find_source("voc", data).load(name, class_names) for name in ("train", "val")}
    backbone = out / "backbone.safetensors"
    if not backbone.exists():
        first = splits["train"].limited(FIRST_PICTURES)
        accuracy = train_backbone(first, splits["val"], arguments.classifier_epochs, backbone)
        print(f"classifier: {100 * accuracy:.1f} % of held-out objects, {time.perf_counter() - started:.0f} s so far")
    first_options = {"epochs": arguments.first_epochs, "lr": 0.015, "limit": FIRST_PICTURES}
    best = train_detector(out / "first", data, first_options | {"pretrained_backbone": str(backbone)})
    start = out / "first.safetensors"
    save_network(build_network(NETWORK, best), start, packed=True)
    best = train_detector(out / "detector", data, {"epochs": arguments.epochs, "lr": 0.01, "init": start})
    written = arguments.write or out / "shapes.safetensors"
    save_network(build_network(NETWORK, best), written, packed=True)

    # Scored from the file, so that the numbers are those of the rounded weights.
    runner = TorchRunner(build_network(NETWORK, written))
    found = run_detector(splits["val"].samples, runner.run, runner.spec)
    scores = {
        metric: score(splits["val"], found, runner.spec, metric=metric, protocol=Protocol.STANDARD).numbers
        for metric in ("voc", "coco")
    }
    minutes = (time.perf_counter() - started) / 60
    size = written.stat().st_size
    print(f"{written}: {size / 1e6:.2f} MB, {minutes:.0f} minutes, {scores}")
    write_json(out / "shapes.json", {"scores": scores, "size_bytes": size, "minutes": minutes})


if __name__ == "__main__":
    main()
