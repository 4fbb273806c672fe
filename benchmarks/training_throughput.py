"""How many images a second does training reach, how much of the processor's power is that, and what holds it up?

    python benchmarks/training_throughput.py [--json OUT.json] [--amp bf16,off] [--variants plain,channels-last]

Each network trains from real image files through the loader that `ssd-deploy train` uses, in every precision and
variant; these take turns. The same run measures the processor's own rate with a large matrix product, which the
training's operations (forward and backward) are compared with, and the loader's rate without a training.

On a CPU it can be tried with `--device cpu --networks ssd_300_mobilenet0.25_voc --batch-size 2 --seconds 1`.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch

from _common.flops import training_gflops
from _common.matrix_rate import matrix_tflops
from _common.turns import recorded_environment, take_turns, test_data
from ssd_deploy.text_table import text_table
from ssd_train.datasets.dataset import Sample
from ssd_train.datasets.source import find_source
from ssd_train.files import write_json
from ssd_train.networks.build import build_ssd
from ssd_train.networks.zoo import network_config
from ssd_train.training.batches import AugmentedImages, Batch, Stream, available_workers, batches
from ssd_train.training.config import TrainingConfig
from ssd_train.training.initialise import initialise
from ssd_train.training.prepare import load_training_samples
from ssd_train.training.processes import Processes
from ssd_train.training.step import Trainer

SEED = 233
# Fresh weights are not to diverge; time does not depend on it.
LR = 1e-4
VARIANTS = {
    "plain": {},
    "channels-last": {"channels_last": True},
    "compile": {"compile": True},
    "channels-last+compile": {"channels_last": True, "compile": True},
}
# A turn's first steps start worker processes and, once, choose algorithms or compile.
WARM_UP_STEPS = 5


class Turn(NamedTuple):
    """A stretch of training.

    Attributes:
        images_per_second: loader included.
        data_wait_share: of the time, in which the training waited for the loader.
        steps: that were timed.
        loss: of the last step.
    """

    images_per_second: float
    data_wait_share: float
    steps: int
    loss: float


class Contender:
    """One network in one precision and variant, and how to train it for a moment."""

    def __init__(
        self, name: str, amp: str, variant: str, samples: Sequence[Sample], options: argparse.Namespace
    ) -> None:
        self.network_name, self.amp, self.variant = name, amp, variant
        self.options, self.device = options, torch.device(options.device)
        network = build_ssd(network_config(name))
        initialise(network, SEED)
        config = TrainingConfig(network=name, dataset="voc", out=Path("unused"), lr=LR, amp=amp, **VARIANTS[variant])
        processes = Processes(rank=0, count=1, device=self.device)
        self.trainer = Trainer(network.to(self.device).train(), config, processes)
        self.images = AugmentedImages(samples, network.spec.input_size, SEED)
        self.num_classes = len(network.config.class_names)

    @property
    def label(self) -> str:
        return f"{self.network_name}, amp {self.amp}, {self.variant}"

    def loaded(self) -> Iterator[Batch]:
        """Yield batches without an end, each image again and again, differently augmented."""
        return loader(self.images, self.options)

    def turn(self) -> Turn:
        loaded = self.loaded()
        for step in range(WARM_UP_STEPS):
            self.trainer.step(step, self._labelled(next(loaded)), LR, stop=False).values()
        # What was loaded ahead meanwhile would hide a loader that is slower than the training.
        for _ in range(batches_ahead(self.options)):
            next(loaded)
        started, waited, step = time.perf_counter(), 0.0, 0
        before = None
        while time.perf_counter() - started < self.options.seconds:
            asked = time.perf_counter()
            batch = self._labelled(next(loaded))
            waited += time.perf_counter() - asked
            result = self.trainer.step(step, batch, LR, stop=False)
            step += 1
            # As the training loop does: a step's numbers are read while the next one is under way.
            if before is not None:
                before.values()
            before = result
        assert before is not None
        classification, localisation, _ = before.values()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elapsed = time.perf_counter() - started
        loss = classification + localisation
        return Turn(step * self.options.batch_size / elapsed, waited / elapsed, step, loss)

    def _labelled(self, batch: Batch) -> Batch:
        """Let labels wrap around where the network has fewer classes than the images."""
        batch.labels[batch.labels >= 0] %= self.num_classes
        return batch


def loading_processes(options: argparse.Namespace) -> int:
    return available_workers(options.workers, 1) if options.workers else 0


def batches_ahead(options: argparse.Namespace) -> int:
    """Return how many batches may lie ready: each process loads so many ahead, see `batches.batches`."""
    return 4 * loading_processes(options)


def loader(images: AugmentedImages, options: argparse.Namespace) -> Iterator[Batch]:
    stream = Stream(num_samples=len(images), batch_size=options.batch_size, epochs=10**9, seed=SEED)
    return batches(
        images,
        stream,
        first_step=0,
        rank=0,
        processes=1,
        workers=loading_processes(options),
        pin_memory=options.device == "cuda",
    )


def loader_rate(images: AugmentedImages, options: argparse.Namespace) -> float:
    """Return images a second of the loader alone."""
    loaded = loader(images, options)
    # Until every process has begun, and nothing is left that was loaded before the clock runs.
    for _ in range(max(1, batches_ahead(options))):
        next(loaded)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < options.seconds:
        next(loaded)
        count += options.batch_size
    return count / (time.perf_counter() - started)


def described(contender: Contender, turns: list[Turn], rate: float, matrix: dict[str, float]) -> dict[str, Any]:
    gflops = training_gflops(contender.trainer.network.config)
    speed = statistics.median(turn.images_per_second for turn in turns)
    # Convolutions of float32 tensors may round to TF32 on a GPU, PyTorch's default.
    kind = "bf16" if contender.amp != "off" else ("tf32" if "tf32" in matrix else "fp32")
    return {
        "network": contender.network_name,
        "amp": contender.amp,
        "variant": contender.variant,
        "images_per_second": speed,
        "gflops_per_image": gflops,
        "tflops": speed * gflops / 1e3,
        "matrix_product": kind,
        "share_of_matrix_rate": speed * gflops / 1e3 / matrix[kind],
        "data_wait_share": statistics.median(turn.data_wait_share for turn in turns),
        "loader_images_per_second": rate,
        "steps_a_turn": [turn.steps for turn in turns],
        "rounds_images_per_second": [turn.images_per_second for turn in turns],
        "last_loss": turns[-1].loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="ssd_300_vgg16_atrous_voc,ssd_512_resnet50_v1_voc")
    parser.add_argument("--amp", default="bf16,off", help="off is float32")
    parser.add_argument("--variants", default="plain,channels-last", help=", ".join(VARIANTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=16, help="at most one a core; 0 loads in this process")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-root", type=Path, default=test_data() / "coco_tiny", help="COCO or VOC layout")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environment = recorded_environment()
    cv2.setNumThreads(0)
    device = torch.device(options.device)
    source = find_source(options.data_root, train_split=options.split, val_split=options.split)
    samples, _ = load_training_samples(source, source.class_names())
    matrix = {"bf16": matrix_tflops(torch.bfloat16, device), "fp32": matrix_tflops(torch.float32, device)}
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        matrix["tf32"] = matrix_tflops(torch.float32, device, allow_tf32=True)
    workers = loading_processes(options)
    results: dict[str, Any] = {
        "environment": environment,
        "device": options.device,
        "cpu_threads": torch.get_num_threads(),
        "batch_size": options.batch_size,
        "workers": workers,
        "images_are_cached_files": len(samples),
        "seconds_a_turn": options.seconds,
        "matrix_tflops": matrix,
        "trainings": [],
    }
    print(
        f"{options.device}, batch {options.batch_size}, {workers} loading processes, {os.cpu_count()} cores; "
        + "matrix product, TFLOP/s: "
        + ", ".join(f"{kind} {rate:.3g}" for kind, rate in matrix.items()),
        flush=True,
    )
    rows = []
    for name in options.networks.split(","):
        contenders = [
            Contender(name, amp, variant, samples, options)
            for amp in options.amp.split(",")
            for variant in options.variants.split(",")
        ]
        rate = loader_rate(contenders[0].images, options)
        turns = take_turns({contender.label: contender.turn for contender in contenders}, options.rounds)
        for contender in contenders:
            values = described(contender, turns[contender.label], rate, matrix)
            results["trainings"].append(values)
            rows.append(
                (
                    contender.label,
                    f"{values['images_per_second']:.1f}",
                    f"{values['tflops']:.3g}",
                    f"{100 * values['share_of_matrix_rate']:.1f} % of {values['matrix_product']}",
                    f"{100 * values['data_wait_share']:.1f} %",
                    f"{rate:.1f}",
                )
            )
        if options.json is not None:
            write_json(options.json, results)
    header = ("training", "images/s", "TFLOP/s", "share of matrix rate", "waits for data", "loader alone, images/s")
    print(text_table(header, rows))


if __name__ == "__main__":
    main()
