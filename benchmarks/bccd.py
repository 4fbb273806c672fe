"""Does training here lead where it should? A small real data set, beside a detector of torchvision's.

    python benchmarks/bccd.py --out FOLDER [--json OUT.json] [--epochs 60] [--seeds 233] [--peer-recipes 1]

BCCD (blood cells, Pascal VOC layout, three classes) is learned from fresh weights by this project's
`ssd_512_mobilenet0.25_custom` through `ssd_train.training.loop.train`, and by torchvision's
`ssdlite320_mobilenet_v3_large` in a plain loop: the same images and boxes in the same order, as many epochs, the same
batch size, the same thresholds and evaluation. Weights of the last epoch are scored on the test list; nothing is
chosen by a score but what favours torchvision: it is trained by its own recipe and by this project's learning rates,
each is scored with its last weights and with their moving average, and the best of the four on the test list is what
it is credited with (`--peer-recipes 1`: the best of the first two). Its network resizes to 320 pixels and normalises
by itself, and keeps its own NMS.

What this project trained is also exported, and ONNX Runtime compared with PyTorch on test images.
An interrupted training of this project goes on where it was; one of torchvision's begins anew.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait by spinning slow everything beside them

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.transforms import v2

from _common.turns import recorded_environment, test_data
from export.onnx import export_onnx
from ssd_deploy.parity.run import run as run_parity
from ssd_deploy.progress import image_progress
from ssd_deploy.text_table import text_table
from ssd_train import build_network
from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.datasets.source import find_source
from ssd_train.detections import Detections
from ssd_train.evaluation.evaluate import score
from ssd_train.files import write_json
from ssd_train.metrics.protocol import Protocol
from ssd_train.spec import DetectorSpec, PostprocessSettings
from ssd_train.training.batches import Key, Stream
from ssd_train.training.config import TrainingConfig
from ssd_train.training.ema import MovingAverage
from ssd_train.training.epoch import validate
from ssd_train.training.loop import train
from ssd_train.training.metrics_file import METRICS_NAME
from ssd_train.training.optimizer import learning_rate
from ssd_train.training.prepare import load_training_samples
from ssd_train.training.processes import Processes
from ssd_train.weights.store import LAST_NAME

NETWORK = "ssd_512_mobilenet0.25_custom"
PEER = "torchvision ssdlite320_mobilenet_v3_large"
WARM_UP_STEPS = 50
MAX_EXPANSION = 1.4

# torchvision's references/detection for this detector: learning rate 0.15 for 8 GPUs of 24 images, cosine over whole
# epochs, weight decay 4e-5, and a first epoch that rises from a thousandth.
PEER_LR, PEER_LR_BATCH = 0.15, 192
PEER_WEIGHT_DECAY = 4e-5
PEER_WARMUP_FACTOR = 1e-3

CPU = Processes(rank=0, count=1, device=torch.device("cpu"))


def train_ours(options: argparse.Namespace, seed: int, test: Dataset) -> dict[str, Any]:
    """Train, score and export this project's detector."""
    folder = options.out / f"ours_{seed}"
    config = TrainingConfig(
        network=NETWORK,
        dataset=str(options.data_root),
        out=folder,
        train_split=options.train_split,
        val_split="val",
        batch_size=options.batch_size,
        lr=options.lr,
        lr_mode="cos",
        warmup_iters=WARM_UP_STEPS,
        # The usual zoom-out would leave platelets of eight pixels; the zoom-in brings nothing in so few epochs.
        max_expansion=MAX_EXPANSION,
        crop=False,
        epochs=options.epochs,
        workers=options.workers,
        ema=True,
        channels_last=True,
        resume="auto",
        pretrained_backbone="none",
        val_interval=options.val_interval or options.epochs,
        seed=seed,
        # Even the shortest training has a line of its speed.
        log_step=max(1, min(10, count_training_images(options) // options.batch_size)),
        device="cpu",
        limit=options.limit,
    )
    result = train(config)
    if result.exit_code:
        raise SystemExit(result.exit_code)
    lines = [json.loads(line) for line in (folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    speed = statistics.median(line["images_per_second"] for line in steps) if steps else math.nan
    images = options.epochs * count_training_images(options)
    network = build_network(NETWORK, weights=folder / LAST_NAME)
    scored = validate(network, test, CPU, metric="voc", batch_size=options.batch_size, workers=1)
    assert scored is not None
    _, detections = scored
    return {
        "detector": NETWORK,
        "recipe": f"cosine, warm-up {WARM_UP_STEPS} steps, learning rate {options.lr:g}, moving average",
        "seed": seed,
        "scores": scores(test, detections, network.spec),
        "images_per_second": speed,
        # Steps and their images alone, so that validation and interruptions do not count.
        "training_minutes": images / speed / 60,
        "validations": [line for line in lines if line["kind"] == "validation"],
        "parity": parity(folder, test, options),
    }


def parity(folder: Path, test: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """Export what was trained, and compare every backend that works here with PyTorch, as `ssd-deploy parity` does."""
    network = build_network(NETWORK, weights=folder / LAST_NAME)
    outcome = run_parity(
        network,
        [export_onnx(network, folder)],
        test.limited(options.parity_images),
        metric="voc",
        protocol=Protocol.STANDARD,
        workers=1,
        show_progress=image_progress,
    )
    print(outcome.text(), flush=True)
    summary = outcome.to_dict()
    for comparison in summary["comparisons"]:
        # For looking into a failure, which `ssd-deploy parity` is there for.
        del comparison["images"], comparison["per_class_difference"]
    return {"passed": outcome.passed, "images": len(outcome.dataset.samples), "comparisons": summary["comparisons"]}


def scores(dataset: Dataset, detections: Sequence[Detections], spec: DetectorSpec) -> dict[str, float]:
    """Return both metrics' numbers, fractions."""
    numbers: dict[str, float] = {}
    for metric in ("voc", "coco"):
        numbers |= score(dataset, detections, spec, metric=metric, protocol=Protocol.STANDARD).numbers
    return numbers


class PeerImages(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The training images with torchvision's augmentation for this detector."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.transform = v2.Compose(
            [
                v2.RandomIoUCrop(),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.SanitizeBoundingBoxes(),
                v2.ToPureTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        sample = self.samples[key.sample]
        image = tv_tensors.Image(torch.from_numpy(sample.load_image()).permute(2, 0, 1))
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(sample.ground_truth.boxes).float(),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=sample.image_size,
        )
        # Its label 0 is background.
        labels = torch.from_numpy(sample.ground_truth.labels) + 1
        transformed: tuple[Tensor, dict[str, Tensor]] = self.transform(image, {"boxes": boxes, "labels": labels})
        return transformed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How torchvision's detector is trained.

    Attributes:
        name: what reports call it.
        rate: step, epoch, all steps -> learning rate.
    """

    name: str
    rate: Callable[[int, int, int], float]


def recipes(options: argparse.Namespace, steps_an_epoch: int) -> list[Recipe]:
    """Return torchvision's own recipe for this batch size, and this project's learning rates."""
    base = PEER_LR * options.batch_size / PEER_LR_BATCH
    warm_up = max(1, steps_an_epoch - 1)

    def own(step: int, epoch: int, total: int) -> float:
        rate = base * 0.5 * (1 + math.cos(math.pi * epoch / options.epochs))
        if step < warm_up:
            rate *= PEER_WARMUP_FACTOR + (1 - PEER_WARMUP_FACTOR) * step / warm_up
        return rate

    def ours(step: int, epoch: int, total: int) -> float:
        return learning_rate(
            step,
            epoch,
            total,
            base=options.lr,
            mode="cos",
            decay=TrainingConfig.lr_decay,
            decay_epochs=(),
            warmup_steps=WARM_UP_STEPS,
            warmup_factor=TrainingConfig.warmup_factor,
        )

    return [
        Recipe(name=f"torchvision's own, learning rate {base:g}", rate=own),
        Recipe(name=f"this project's learning rates, {options.lr:g}", rate=ours),
    ]


def train_peer(
    options: argparse.Namespace, seed: int, recipe_number: int, samples: Sequence[Sample], test: Dataset
) -> list[dict[str, Any]]:
    """Train torchvision's detector by one recipe; returns its last weights' result and that of their average."""
    stream = Stream(num_samples=len(samples), batch_size=options.batch_size, epochs=options.epochs, seed=seed)
    recipe = recipes(options, max(1, len(samples) // options.batch_size))[recipe_number]
    torch.manual_seed(seed)
    detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(test.class_names) + 1)
    settings = PostprocessSettings()
    detector.score_thresh, detector.detections_per_img = settings.score_threshold, settings.max_detections
    detector.to(memory_format=torch.channels_last).train()
    average = MovingAverage(detector, TrainingConfig.ema_decay)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(detector.parameters(), 0.0, momentum=0.9, weight_decay=PEER_WEIGHT_DECAY)
    loader = DataLoader(
        PeerImages(samples),
        batch_sampler=list(stream.keys(0)),  # type: ignore[arg-type]
        num_workers=options.workers,
        collate_fn=lambda examples: tuple(zip(*examples, strict=True)),
    )
    total = stream.first_step(stream.epochs)
    started = time.perf_counter()
    diverged = None
    for step, (images, targets) in enumerate(loader):
        epoch = stream.epoch_of(step)
        optimizer.param_groups[0]["lr"] = recipe.rate(step, epoch, total)
        loss = torch.stack(list(detector(list(images), list(targets)).values())).sum()
        if not math.isfinite(loss.item()):
            diverged = step
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update(detector, step)  # type: ignore[arg-type]
        if epoch < stream.epoch_of(step + 1):
            print(f"{PEER}, {recipe.name}: epoch {epoch + 1}/{options.epochs}, loss {loss.item():.4f}", flush=True)
    minutes = (time.perf_counter() - started) / 60
    results = []
    for weights, scored in (("last weights", detector), ("moving average", average.network)):
        numbers = None
        if diverged is None:
            torch.save(scored.state_dict(), options.out / f"peer_{seed}_{recipe_number}_{weights.split()[0]}.pt")
            numbers = peer_scores(scored, test, options.batch_size)
        results.append(
            {
                "detector": PEER,
                "recipe": f"{recipe.name}, {weights}",
                "seed": seed,
                "scores": numbers,
                "diverged_at_step": diverged,
                "images_per_second": total * options.batch_size / 60 / minutes if diverged is None else None,
                "training_minutes": minutes,
            }
        )
    return results


@torch.no_grad()
def peer_scores(detector: nn.Module, test: Dataset, batch_size: int) -> dict[str, float]:
    """Score torchvision's detector; boxes come back in image pixels."""
    detector.eval()
    detections = []
    for start in range(0, len(test.samples), batch_size):
        batch = test.samples[start : start + batch_size]
        images = [torch.from_numpy(sample.load_image()).permute(2, 0, 1).float().div(255) for sample in batch]
        for found in detector(images):
            labels = found["labels"].numpy().astype(np.int64) - 1
            detections.append(Detections(found["boxes"].numpy(), found["scores"].numpy(), labels))
    settings = PostprocessSettings(
        nms_iou_threshold=detector.nms_thresh,  # type: ignore[arg-type]
        pre_nms_top_k=detector.topk_candidates,  # type: ignore[arg-type]
    )
    # Describes the detector in the report; its own transform resizes and normalises.
    spec = DetectorSpec(network=PEER, class_names=test.class_names, input_size=(320, 320), postprocess=settings)
    return scores(test, detections, spec)


def count_training_images(options: argparse.Namespace) -> int:
    return len(training_samples(options))


def training_samples(options: argparse.Namespace) -> list[Sample]:
    source = find_source(options.data_root, train_split=options.train_split, val_split="val")
    samples, _ = load_training_samples(source, source.class_names())
    return samples[: options.limit]


def best_of_peer(results: list[dict[str, Any]], seed: int) -> dict[str, Any] | None:
    """Return a seed's best result of torchvision's on the test list."""
    finished = [
        result for result in results
        if result["detector"] == PEER and result["seed"] == seed and result["scores"] is not None
    ]  # fmt: skip
    return max(finished, key=lambda result: result["scores"]["VOC07 mAP"]) if finished else None


def table(results: list[dict[str, Any]], seeds: Sequence[int]) -> str:
    credited = [id(best_of_peer(results, seed)) for seed in seeds]
    rows = []
    for result in results:
        numbers = result["scores"]
        cells = (
            ["diverged"] * 3
            if numbers is None
            else [f"{100 * numbers[name]:.2f} %" for name in ("VOC07 mAP", "AP", "AP50")]
        )
        speed = "-" if result["images_per_second"] is None else f"{result['images_per_second']:.1f}"
        rows.append(
            (
                result["detector"] + (" (credited)" if id(result) in credited else ""),
                result["recipe"],
                str(result["seed"]),
                *cells,
                f"{result['training_minutes']:.1f}",
                speed,
            )
        )
    header = ("detector", "recipe", "seed", "VOC07 mAP", "COCO AP", "AP50", "minutes", "images/s")
    return text_table(header, rows, left=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for run folders and weights")
    parser.add_argument("--data-root", type=Path, default=test_data() / "bccd")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.03, help="of this project's training")
    parser.add_argument("--seeds", default="233", help="with commas between")
    parser.add_argument("--peer-recipes", type=int, choices=(0, 1, 2), default=2, help="1: torchvision's own alone")
    parser.add_argument("--val-interval", type=int, help="epochs; without it only the last one is validated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that load images; 0 loads in this one")
    parser.add_argument("--limit", type=int, help="first images of both lists only, to try the script out")
    parser.add_argument("--parity-images", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environment = recorded_environment()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)
    options.out.mkdir(parents=True, exist_ok=True)
    samples = training_samples(options)
    class_names = find_source(options.data_root, train_split=options.train_split).class_names()
    test = find_source("voc", options.data_root).load("test", class_names).limited(options.limit)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    results: list[dict[str, Any]] = []

    def keep(new: list[dict[str, Any]]) -> None:
        results.extend(new)
        if options.json is None:
            return
        values = {
            "environment": environment,
            "threads": options.threads,
            "workers": options.workers,
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "training_images": len(samples),
            "train_split": options.train_split,
            "test_images": len(test.samples),
            "classes": list(class_names),
            "results": results,
            "max_expansion": MAX_EXPANSION,
            "peer_recipes": options.peer_recipes,
            "credited_to_peer": [best_of_peer(results, seed) for seed in seeds],
        }
        write_json(options.json, values)

    for seed in seeds:
        keep([train_ours(options, seed, test)])
        for recipe_number in range(options.peer_recipes):
            keep(train_peer(options, seed, recipe_number, samples, test))
    print(table(results, seeds))
    verdicts = [result["parity"]["passed"] for result in results if "parity" in result]
    print(f"parity of what was exported with PyTorch: {'pass' if all(verdicts) else 'FAIL'}")


if __name__ == "__main__":
    main()
