"""What does a training step cost: how much of it matching and loss, and how much beside torchvision's SSD?

    python benchmarks/training_step.py [--json OUT.json] [--device cuda] [--part share,peer]

share: matching and loss of a whole batch as a share of a step of `ssd_512_vgg16_atrous_coco`. On a CPU the network
runs on few images and its time is scaled up linearly (`--network-batch`), since a whole batch takes minutes.

peer: a whole step of `ssd_300_vgg16_atrous_voc` (network input, network, targets, loss, gradients, weights; the batch
is loaded already) and one of torchvision's `ssd300_vgg16` with its own loss and SGD, on the same images and boxes.
Both networks differ in size, so times are also divided by the operations of forward and backward.

Variants take turns. One CPU thread, unless `--threads` says otherwise.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16

from _common.flops import counted_flops, training_gflops
from _common.turns import median_ratio, recorded_environment, take_turns, test_data
from ssd_deploy.text_table import text_table
from ssd_train.datasets.dataset import Sample
from ssd_train.datasets.source import find_source
from ssd_train.files import write_json
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.training.batches import AugmentedImages, Batch, Key, collate
from ssd_train.training.config import TrainingConfig
from ssd_train.training.initialise import initialise
from ssd_train.training.loss import multibox_loss
from ssd_train.training.prepare import load_training_samples
from ssd_train.training.processes import Processes
from ssd_train.training.step import AMP_TYPES, Trainer
from ssd_train.training.targets import assign_targets

SHARE_NETWORK, PEER_NETWORK = "ssd_512_vgg16_atrous_coco", "ssd_300_vgg16_atrous_voc"
SHARE_GOAL = 0.15
SEED = 233
# Both networks start from fresh weights: a rate at which neither diverges. Time does not depend on it.
LR = 1e-4
OURS, OURS_LAST = "this project", "this project, channels-last"
PEER, PEER_LAST = "torchvision", "torchvision, channels-last"


def load_batch(samples: Sequence[Sample], input_size: int, count: int, num_classes: int) -> Batch:
    """Return augmented images, the data set over and over; labels wrap around where a network has fewer classes."""
    images = AugmentedImages(samples, (input_size, input_size), SEED)
    batch = collate([images[Key(number // len(samples), number % len(samples))] for number in range(count)])
    batch.labels[batch.labels >= 0] %= num_classes
    return batch


def fresh_network(name: str, device: torch.device) -> SSD:
    network = build_ssd(network_config(name))
    initialise(network, SEED)
    return network.to(device).train()


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Time a call until the device is done with it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - started)


def trainer_for(name: str, amp: str, device: torch.device, *, channels_last: bool) -> Trainer:
    config = TrainingConfig(
        network=name, dataset="voc", out=Path("unused"), lr=LR, amp=amp, channels_last=channels_last
    )
    return Trainer(fresh_network(name, device), config, Processes(rank=0, count=1, device=device))


def measure_share(samples: Sequence[Sample], options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time matching, loss, network and optimizer by themselves, and put the parts together."""
    trainer = trainer_for(SHARE_NETWORK, options.amp, device, channels_last=options.channels_last)
    network = trainer.network
    side, num_classes = network.config.input_size[0], len(network.config.class_names)
    batch = load_batch(samples, side, options.batch_size, num_classes).to(device)
    generator = torch.Generator(device).manual_seed(SEED)
    num_anchors = len(network.anchors)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    logits = drawn(options.batch_size, num_anchors, num_classes + 1).requires_grad_()
    offsets = drawn(options.batch_size, num_anchors, 4).requires_grad_()
    cls_targets, box_targets = assign_targets(batch.boxes, batch.labels, network.anchors)
    images = drawn(options.network_batch, 3, side, side).contiguous(memory_format=trainer.memory_format)
    gradients = logits.detach()[: options.network_batch], offsets.detach()[: options.network_batch]

    def loss() -> None:
        logits.grad = offsets.grad = None
        classification, localisation = multibox_loss(logits, offsets, cls_targets, box_targets)
        (classification + localisation).backward()

    def forward_backward() -> None:
        network.zero_grad(set_to_none=True)
        amp_type = AMP_TYPES.get(options.amp)
        with torch.autocast(device.type, amp_type or torch.bfloat16, enabled=amp_type is not None):
            outputs = network(images)
        torch.autograd.backward(outputs, gradients)

    # The weights are to stay as they are.
    trainer.optimizer.param_groups[0]["lr"] = 0.0
    # Before the turns: the optimizer needs gradients, and makes its buffers in its first step.
    forward_backward()
    times = take_turns(
        {
            "matching": lambda: milliseconds(
                lambda: assign_targets(batch.boxes, batch.labels, network.anchors), device
            ),
            "loss": lambda: milliseconds(loss, device),
            "network": lambda: milliseconds(forward_backward, device),
            "optimizer": lambda: milliseconds(trainer.optimizer.step, device),
        },
        options.rounds,
    )
    scale = options.batch_size / options.network_batch
    shares = [
        (matching + of_loss) / (matching + of_loss + scale * of_network + optimizer)
        for matching, of_loss, of_network, optimizer in zip(*times.values(), strict=True)
    ]
    medians = {name: statistics.median(values) for name, values in times.items()}
    share = statistics.median(shares)
    return {
        "network": SHARE_NETWORK,
        "batch_size": options.batch_size,
        "network_batch": options.network_batch,
        "most_objects_of_an_image": batch.labels.shape[1],
        "amp": options.amp,
        "channels_last": options.channels_last,
        "matching_ms": medians["matching"],
        "loss_ms": medians["loss"],
        "network_ms_measured": medians["network"],
        "network_ms_of_batch": scale * medians["network"],
        "network_is_scaled": scale != 1,
        "optimizer_ms": medians["optimizer"],
        "share_of_matching_and_loss": share,
        "goal": SHARE_GOAL,
        "goal_met": share <= SHARE_GOAL,
        "rounds_ms": times,
    }


def print_share(result: dict[str, Any]) -> None:
    size, measured = result["batch_size"], result["network_batch"]
    how = f"measured with {measured} images, scaled linearly" if result["network_is_scaled"] else "measured"
    rows = [
        ("matching, forward only", f"{result['matching_ms']:.2f}", "measured"),
        ("loss, forward and backward", f"{result['loss_ms']:.2f}", "measured"),
        ("network, forward and backward", f"{result['network_ms_of_batch']:.2f}", how),
        ("optimizer", f"{result['optimizer_ms']:.2f}", "measured"),
    ]
    print(f"{result['network']}, batch {size}, amp {result['amp']}")
    print(text_table(("part", "ms", "how"), rows))
    verdict = "met" if result["goal_met"] else "MISSED"
    share = 100 * result["share_of_matching_and_loss"]
    print(f"matching and loss: {share:.2f} % of a step; goal of at most {100 * SHARE_GOAL:.0f} %: {verdict}\n")


class TorchvisionStep:
    """A training step of torchvision's detector as its documentation writes it."""

    def __init__(self, batch: Batch, amp: str, device: torch.device, *, channels_last: bool) -> None:
        torch.manual_seed(SEED)
        detector = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=21)
        if channels_last:
            detector = detector.to(memory_format=torch.channels_last)
        self.detector = detector.to(device).train()
        self.optimizer = torch.optim.SGD(detector.parameters(), LR, momentum=0.9, weight_decay=5e-4)
        self.device, self.amp_type = device, AMP_TYPES.get(amp)
        # It normalises images by itself, as this project's step does with its own.
        self.images = [image for image in batch.images.to(device).permute(0, 3, 1, 2).float().div(255)]
        self.targets = []
        for boxes, labels in zip(batch.boxes.to(device), batch.labels.to(device), strict=True):
            is_real = labels >= 0
            # Its label 0 is background.
            self.targets.append({"boxes": boxes[is_real], "labels": labels[is_real] + 1})

    def loss(self) -> Tensor:
        with torch.autocast(self.device.type, self.amp_type or torch.bfloat16, enabled=self.amp_type is not None):
            losses: dict[str, Tensor] = self.detector(self.images, self.targets)
        return torch.stack(list(losses.values())).sum()

    def step(self) -> float:
        loss = self.loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def measure_peer(samples: Sequence[Sample], options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time whole steps of both detectors, and count their operations."""
    config = network_config(PEER_NETWORK)
    batch = load_batch(samples, config.input_size[0], options.peer_batch, len(config.class_names))
    if device.type == "cuda":
        batch = batch.pin_memory()

    def our_step(trainer: Trainer) -> Callable[[], float]:
        def step() -> float:
            classification, localisation, _ = trainer.step(0, batch, LR, stop=False).values()
            return classification + localisation

        return step

    steps: dict[str, Callable[[], float]] = {}
    for name, channels_last in ((OURS, False), (OURS_LAST, True)):
        steps[name] = our_step(trainer_for(PEER_NETWORK, options.amp, device, channels_last=channels_last))
    peers = {
        name: TorchvisionStep(batch, options.amp, device, channels_last=channels_last)
        for name, channels_last in ((PEER, False), (PEER_LAST, True))
    }
    steps |= {name: peer.step for name, peer in peers.items()}
    ours_gflops = training_gflops(config) * options.peer_batch
    peer_gflops = counted_flops(peers[PEER].loss) / 1e9
    gflops = {OURS: ours_gflops, OURS_LAST: ours_gflops, PEER: peer_gflops, PEER_LAST: peer_gflops}

    last_loss: dict[str, float] = {}

    def turn(name: str) -> Callable[[], tuple[float, float]]:
        def step() -> None:
            last_loss[name] = steps[name]()

        def timed() -> tuple[float, float]:
            computing = time.process_time()
            return milliseconds(step, device), 1e3 * (time.process_time() - computing)

        return timed

    turns = take_turns({name: turn(name) for name in steps}, options.rounds)
    times = {name: [clock for clock, _ in of_variant] for name, of_variant in turns.items()}
    per_gflop = {name: [value / gflops[name] for value in values] for name, values in times.items()}
    best_of_ours, best_of_peer = (
        min(names, key=lambda name: statistics.median(per_gflop[name])) for names in ((OURS, OURS_LAST), tuple(peers))
    )
    ratio = median_ratio(per_gflop[best_of_ours], per_gflop[best_of_peer])
    return {
        "network": PEER_NETWORK,
        "peer": "torchvision ssd300_vgg16",
        "batch_size": options.peer_batch,
        "amp": options.amp,
        "goal": "each with its faster variant, no slower an operation than torchvision's",
        "faster_variants": [best_of_ours, best_of_peer],
        "ms_per_gflop_by_peer": ratio,
        "goal_met": ratio <= 1,
        "variants": {
            name: {
                "step_ms": statistics.median(values),
                # Of the processor: on a CPU what a step takes where nothing else runs.
                "computing_ms": statistics.median(computing for _, computing in turns[name]),
                "gflops": gflops[name],
                "ms_per_gflop": statistics.median(per_gflop[name]),
                "ms_per_gflop_by_torchvision": median_ratio(per_gflop[name], per_gflop[PEER]),
                "last_loss": last_loss[name],
                "rounds_ms": values,
            }
            for name, values in times.items()
        },
    }


def print_peer(result: dict[str, Any]) -> None:
    rows = [
        (
            name,
            f"{values['step_ms']:.1f}",
            f"{values['computing_ms']:.1f}",
            f"{values['gflops']:.0f}",
            f"{values['ms_per_gflop']:.3f}",
            f"{values['ms_per_gflop_by_torchvision']:.3f}",
        )
        for name, values in result["variants"].items()
    ]
    print(f"{result['network']} and {result['peer']}, batch {result['batch_size']}, amp {result['amp']}, whole step")
    print(text_table(("variant", "ms", "computing ms", "GFLOP", "ms/GFLOP", "by torchvision's"), rows))
    verdict = "met" if result["goal_met"] else "MISSED"
    print(f"goal, {result['goal']}: {verdict}, {result['ms_per_gflop_by_peer']:.3f} of its time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="share,peer")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", choices=("off", "bf16", "fp16"), default="off")
    parser.add_argument("--channels-last", action="store_true", help="of the network whose share is measured")
    parser.add_argument("--batch-size", type=int, default=32, help="of matching and loss")
    parser.add_argument("--network-batch", type=int, help="images that its network runs on; 2 on a CPU, else all")
    parser.add_argument("--peer-batch", type=int, help="of the step beside torchvision's; 4 on a CPU, else 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", type=Path, default=test_data() / "coco_tiny", help="COCO or VOC layout")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.network_batch = options.network_batch or (options.batch_size if on_gpu else 2)
    options.peer_batch = options.peer_batch or (32 if on_gpu else 4)
    environment = recorded_environment()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)
    device = torch.device(options.device)
    source = find_source(options.data_root, train_split=options.split, val_split=options.split)
    samples, _ = load_training_samples(source, source.class_names())
    results: dict[str, Any] = {
        "environment": environment,
        "device": options.device,
        "threads": options.threads,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
    }
    for part in options.part.split(","):
        measure, show = {"share": (measure_share, print_share), "peer": (measure_peer, print_peer)}[part]
        results[part] = measure(samples, options, device)
        show(results[part])
        if options.json is not None:
            write_json(options.json, results)


if __name__ == "__main__":
    main()
