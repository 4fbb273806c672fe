"""How many images a second does training reach, how much of the processor's power is that, and what holds it up?

    python benchmarks/training_throughput.py [--json OUT.json] [--amp bf16,off] [--variants plain,channels-last]

Each network trains from real image files through the loader that `ssd-deploy train` uses, in every precision and
variant, one after the other: first its step alone, from batches that lie in memory, then with the loader. The same run
measures the processor's own rate with a large matrix product, which the training's operations (forward and backward)
are compared with, and the loader's rate without a training.

Every number is printed and written as soon as it exists. A variant that fails is a line with its error, and the others
go on. One that takes long to begin (compiling) is measured shorter: `--limit` seconds are for all of it.

On a CPU it can be tried with `--device cpu --networks ssd_300_mobilenet0.25_voc --batch-size 2 --seconds 1`.
"""

import argparse
import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch

from _common.flops import training_gflops
from _common.matrix_rate import matrix_tflops
from _common.turns import recorded_environment, test_data
from ssd_train.datasets.dataset import Sample
from ssd_train.datasets.source import find_source
from ssd_train.errors import first_line
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
# Without a word about the order of memory it is that of the device: channels-last on a GPU.
VARIANTS: dict[str, dict[str, bool]] = {
    "plain": {"channels_last": False},
    "channels-last": {"channels_last": True},
    "compile": {"compile": True},
    "compile+cuda-graphs": {"compile": True, "cuda_graphs": True},
    "channels-last+compile": {"channels_last": True, "compile": True},
}
# The first steps choose algorithms or compile.
WARM_UP_STEPS = 5
# Of a step alone.
BATCHES_IN_MEMORY = 3
# A turn is not shorter than this, however long the first steps took.
LEAST_SECONDS = 1.0


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
        self.options, self.device = options, torch.device(options.device)
        network = build_ssd(network_config(name))
        initialise(network, SEED)
        config = TrainingConfig(network=name, dataset="voc", out=Path("unused"), lr=LR, amp=amp, **VARIANTS[variant])
        processes = Processes(rank=0, count=1, device=self.device)
        self.trainer = Trainer(network.to(self.device).train(), config, processes)
        self.num_classes = len(network.config.class_names)
        # Each image again and again, differently augmented.
        self.loaded = map(self._labelled, loader(AugmentedImages(samples, network.spec.input_size, SEED), options))

    def warm_up(self) -> float:
        """Take the first steps; returns the seconds of the very first."""
        times = []
        for step in range(WARM_UP_STEPS):
            batch = next(self.loaded)
            started = time.perf_counter()
            self.trainer.step(step, batch, LR, stop=False).values()
            times.append(time.perf_counter() - started)
        return times[0]

    def step_alone(self, seconds: float) -> Turn:
        """Train from batches that lie in memory."""
        batches_here = [next(self.loaded) for _ in range(BATCHES_IN_MEMORY)]
        return self._turn(seconds, lambda step: batches_here[step % len(batches_here)])

    def with_loader(self, seconds: float) -> Turn:
        # What was loaded ahead meanwhile would hide a loader that is slower than the training.
        for _ in range(batches_ahead(self.options)):
            next(self.loaded)
        return self._turn(seconds, lambda step: next(self.loaded))

    def _turn(self, seconds: float, batch_of: Callable[[int], Batch]) -> Turn:
        started, waited, step = time.perf_counter(), 0.0, 0
        before = None
        while time.perf_counter() - started < seconds:
            asked = time.perf_counter()
            batch = batch_of(step)
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


def measured(
    contender: Contender, values: dict[str, Any], rate: float, options: argparse.Namespace, told: Callable[[], None]
) -> None:
    """Fill in a training's values one after the other, each told as soon as it is there."""
    started = time.perf_counter()
    values["first_step_seconds"] = contender.warm_up()
    told()
    turns: dict[str, list[Turn]] = {"step_alone": [], "with_loader": []}
    for number in range(options.rounds):
        for kind, turn in (("step_alone", contender.step_alone), ("with_loader", contender.with_loader)):
            left = options.limit - (time.perf_counter() - started)
            if number and left < options.seconds:
                continue
            turns[kind].append(turn(min(options.seconds, max(left / 3, LEAST_SECONDS))))
            speed = statistics.median(one.images_per_second for one in turns[kind])
            tflops = speed * values["gflops_per_image"] / 1e3
            values[kind] = {
                "images_per_second": speed,
                "tflops": tflops,
                "share_of_matrix_rate": tflops / rate,
                "data_wait_share": statistics.median(one.data_wait_share for one in turns[kind]),
                "steps_a_turn": [one.steps for one in turns[kind]],
                "rounds_images_per_second": [one.images_per_second for one in turns[kind]],
                "last_loss": turns[kind][-1].loss,
            }
            told()


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


def line_of(values: dict[str, Any]) -> str:
    """Return what is known of a training so far, on one line."""
    parts = [f"{values['network']}, amp {values['amp']}, {values['variant']}:"]
    if "error" in values:
        return f"{parts[0]} FAILED, {values['error']}"
    parts.append(f"first step {values['first_step_seconds']:.1f} s")
    for kind in ("step_alone", "with_loader"):
        if kind in values:
            found = values[kind]
            parts.append(
                f"| {kind.replace('_', ' ')} {found['images_per_second']:.1f} images/s, {found['tflops']:.3g} TFLOP/s, "
                f"{100 * found['share_of_matrix_rate']:.1f} % of {values['matrix_product']}, "
                f"waits {100 * found['data_wait_share']:.1f} %"
            )
    return " ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="ssd_300_vgg16_atrous_voc,ssd_512_resnet50_v1_voc")
    parser.add_argument("--amp", default="bf16,off", help="off is float32")
    parser.add_argument("--variants", default="plain,channels-last", help=", ".join(VARIANTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=16, help="at most one a core; 0 loads in this process")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for a network, precision and variant")
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
        "loader_images_per_second": {},
        "trainings": [],
    }

    def written(line: str) -> None:
        print(line, flush=True)
        if options.json is not None:
            write_json(options.json, results)

    written(
        f"{options.device}, batch {options.batch_size}, {workers} loading processes, {os.cpu_count()} cores; "
        + "matrix product, TFLOP/s: "
        + ", ".join(f"{kind} {rate:.3g}" for kind, rate in matrix.items())
    )
    for name in options.networks.split(","):
        images = AugmentedImages(samples, network_config(name).input_size, SEED)
        results["loader_images_per_second"][name] = rate = loader_rate(images, options)
        written(f"{name}: loader alone {rate:.1f} images/s")
        gflops = training_gflops(network_config(name))
        for amp in options.amp.split(","):
            for variant in options.variants.split(","):
                # The step turns TF32 off, so float32 is compared with float32.
                kind = "fp32" if amp == "off" else "bf16"
                values = {"network": name, "amp": amp, "variant": variant, "gflops_per_image": gflops}
                values["matrix_product"] = kind
                results["trainings"].append(values)
                with failing_alone(values, written):
                    contender = Contender(name, amp, variant, samples, options)
                    measured(contender, values, matrix[kind], options, lambda of=values: written(line_of(of)))
                contender = None
                torch.compiler.reset()
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()


@contextlib.contextmanager
def failing_alone(values: dict[str, Any], written: Callable[[str], None]) -> Iterator[None]:
    """Within the block, note whatever a variant fails of: what the others measure is not to be lost."""
    try:
        yield
    except Exception as error:
        values["error"] = f"{type(error).__name__}: {first_line(error)}"
        written(line_of(values))


if __name__ == "__main__":
    main()
