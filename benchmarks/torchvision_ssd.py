"""Train torchvision's SSDs with torchvision's own code, to have checkpoints as its users have them.

    python benchmarks/torchvision_ssd.py ssd300_vgg16 --data shapes --out FOLDER --minutes 10
    python benchmarks/torchvision_ssd.py ssdlite320_mobilenet_v3_large --data BCCD --train-split trainval --out FOLDER

The detector, its loss, its matching and its resizing are torchvision's; nothing of this project is in the training but
the reader of the data set. No pretrained weights are used: what comes out stands for a fine-tuned detector, and has
the form that torchvision's references/detection writes (`model`, `optimizer`, `lr_scheduler`, `epoch`).

A rate that falls along a cosine needs its end: training stops after --epochs, or after --minutes, by the clock.
"""

import argparse
import dataclasses
import math
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait by spinning slow everything beside them

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection

from ssd_train.datasets.dataset import Sample
from ssd_train.datasets.source import find_source

WARM_UP_SHARE = 0.03
MAX_GRADIENT_NORM = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What fits a detector that starts from random weights.

    Attributes:
        learning_rate: the highest, for the batch size.
        batch_size: images a step.
        weight_decay: torchvision's own for this detector.
        input_scale: what the first convolution's initial weights are multiplied by.
    """

    learning_rate: float
    batch_size: int
    weight_decay: float
    input_scale: float = 1.0


RECIPES = {
    # Its input has a standard deviation of about 70, since it is normalised by 1/255; fresh weights expect 1.
    "ssd300_vgg16": Recipe(learning_rate=0.003, batch_size=4, weight_decay=5e-4, input_scale=1 / 70),
    "ssdlite320_mobilenet_v3_large": Recipe(learning_rate=0.015, batch_size=4, weight_decay=4e-5),
}


def build(name: str, num_classes: int, input_scale: float) -> nn.Module:
    """Return torchvision's detector with random weights and its background as class 0."""
    detector: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes + 1)
    first = next(module for module in detector.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight.mul_(input_scale)
    return detector


def example(sample: Sample, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a picture, mirrored half of the times, as torchvision takes it; boxes without area are left out."""
    image = torch.from_numpy(sample.load_image()).permute(2, 0, 1).float().div(255)
    boxes = torch.from_numpy(sample.ground_truth.boxes).float()
    labels = torch.from_numpy(sample.ground_truth.labels) + 1
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, labels = boxes[kept], labels[kept]
    if rng.random() < 0.5:
        width = image.shape[-1]
        image = image.flip(-1)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    return image, {"boxes": boxes, "labels": labels}


def train(detector: nn.Module, recipe: Recipe, samples: list[Sample], options: argparse.Namespace) -> None:
    """Train, and write a checkpoint every few epochs and at the end."""
    rng = np.random.default_rng(options.seed)
    detector.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        [parameter for parameter in detector.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        momentum=0.9,
        weight_decay=recipe.weight_decay,
    )
    steps_an_epoch = len(samples) // recipe.batch_size
    started = time.perf_counter()
    done = 0.0  # share of the training
    epoch = step = 0
    while done < 1:
        order = rng.permutation(len(samples))
        for start in range(0, steps_an_epoch * recipe.batch_size, recipe.batch_size):
            minutes = (time.perf_counter() - started) / 60
            done = max(step / (options.epochs * steps_an_epoch), minutes / options.minutes)
            if done >= 1:
                break
            rate = recipe.learning_rate * min(1.0, done / WARM_UP_SHARE) * 0.5 * (1 + math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = rate
            images, targets = zip(
                *(example(samples[index], rng) for index in order[start : start + recipe.batch_size]), strict=True
            )
            losses = detector(list(images), list(targets))
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            nn.utils.clip_grad_norm_(detector.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            if step % options.log_steps == 0:
                text = ", ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
                print(f"epoch {epoch}, step {step}, {minutes:.1f} min, rate {rate:.5f}: {text}", flush=True)
            step += 1
        epoch += 1
        if epoch % options.save_epochs == 0 or done >= 1:
            checkpoint = {
                "model": detector.state_dict(),
                "optimizer": optimizer.state_dict(),
                "lr_scheduler": {"last_epoch": epoch},
                "args": {name: str(value) for name, value in vars(options).items()},
                "epoch": epoch,
            }
            # The last two are kept, so that one that is being written spoils nothing.
            torch.save(checkpoint, options.out / f"model_{(epoch // options.save_epochs) % 2}.pth")
            if done >= 1:
                torch.save(checkpoint, options.out / "checkpoint.pth")
    print(f"{step} steps of {recipe.batch_size}, {epoch} epochs, {(time.perf_counter() - started) / 60:.1f} minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=tuple(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="any data set that ssd-deploy reads")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="a checkpoint of this script to start from")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=233)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log-steps", type=int, default=20)
    parser.add_argument("--save-epochs", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)
    options.out.mkdir(parents=True, exist_ok=True)
    source = find_source(options.data, train_split=options.train_split)
    class_names = source.class_names()
    (options.out / "classes.txt").write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
    samples = list(source.load(options.train_split, class_names).samples)
    recipe = RECIPES[options.network]
    detector = build(options.network, len(class_names), recipe.input_scale)
    if options.init is not None:
        detector.load_state_dict(torch.load(options.init)["model"])
    train(detector, recipe, samples, options)


if __name__ == "__main__":
    main()
