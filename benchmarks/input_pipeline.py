"""How many training images does one core make ready in a second?

    python benchmarks/input_pipeline.py [--json OUT.json] [--data-root FOLDER --split NAME] [--sizes 300,512]

The same image files and boxes go through this project's training input, torchvision's, GluonCV's, and through
decoding and resizing alone. All take turns on one core that everything is pinned to. GluonCV runs in an environment
of its own, `.venv-oracle` (see `tests/oracle/make_reference.sh`), and is left out without it.

Images are read from files that the system has cached. `images/s` goes by the clock; images a second of computing
time stay true where other programs use the core too.
"""

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from _common.asked_process import ORACLE_PYTHON, AskedProcess
from _common.turns import median_ratio, recorded_environment, take_turns, test_data
from ssd_deploy.text_table import text_table
from ssd_train.datasets.dataset import Sample
from ssd_train.datasets.source import find_source
from ssd_train.files import write_json
from ssd_train.spec import IMAGENET_MEAN, IMAGENET_STD
from ssd_train.training.batches import AugmentedImages, Batch, Key, collate
from ssd_train.training.input_batch import input_batch
from ssd_train.training.prepare import load_training_samples

GOAL = 200.0
BATCH_SIZE = 16
SEED = 233

WHOLE, UNCOLOURED, TORCHVISION, BARE, GLUONCV = (
    "this project",
    "this project, colours left to a GPU",
    "torchvision v2",
    "OpenCV decode and resize alone",
    "GluonCV",
)


class Seconds(NamedTuple):
    """An image's time: by the clock, and of computing."""

    clock: float
    computing: float


def timed(work: Callable[[], int]) -> Seconds:
    """Time work that returns how many images it made."""
    clock, computing = time.perf_counter(), time.process_time()
    count = work()
    return Seconds((time.perf_counter() - clock) / count, (time.process_time() - computing) / count)


class OurInput:
    """This project's training input, epoch after epoch."""

    def __init__(self, samples: Sequence[Sample], input_size: int, passes: int, *, with_colours: bool) -> None:
        self.images = AugmentedImages(samples, (input_size, input_size), SEED)
        self.passes = passes
        self.with_colours = with_colours
        self.epoch = 0
        self.inputs: torch.Tensor | None = None

    def turn(self) -> int:
        for _ in range(self.passes):
            keys = [Key(self.epoch, index) for index in range(len(self.images))]
            self.epoch += 1
            for start in range(0, len(keys), BATCH_SIZE):
                batch: Batch = collate([self.images[key] for key in keys[start : start + BATCH_SIZE]])
                if self.with_colours:
                    self.inputs = input_batch(batch, IMAGENET_MEAN, IMAGENET_STD, over=self.inputs)
        return self.passes * len(self.images)


class TorchvisionInput:
    """The steps of SSD's augmentation as torchvision offers them, on tensors in 8 bits as long as it allows."""

    def __init__(self, samples: Sequence[Sample], input_size: int, passes: int) -> None:
        self.samples = samples
        self.passes = passes
        fill = [255 * mean for mean in IMAGENET_MEAN]
        self.transform = v2.Compose(
            [
                v2.RandomPhotometricDistort(),
                v2.RandomZoomOut(fill=fill),
                v2.RandomIoUCrop(),
                v2.SanitizeBoundingBoxes(),
                v2.Resize((input_size, input_size)),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
        self.boxes = [torch.from_numpy(sample.ground_truth.boxes).float() for sample in samples]
        self.labels = [torch.from_numpy(sample.ground_truth.labels) for sample in samples]

    def turn(self) -> int:
        for _ in range(self.passes):
            for start in range(0, len(self.samples), BATCH_SIZE):
                numbers = range(len(self.samples))[start : start + BATCH_SIZE]
                torch.stack([self._image(number) for number in numbers])
        return self.passes * len(self.samples)

    def _image(self, number: int) -> torch.Tensor:
        image = tv_tensors.Image(decode_image(str(self.samples[number].path), ImageReadMode.RGB))
        boxes = tv_tensors.BoundingBoxes(
            self.boxes[number], format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=tuple(image.shape[-2:])
        )
        transformed, _ = self.transform(image, {"boxes": boxes, "labels": self.labels[number]})
        return transformed


def decode_and_resize(samples: Sequence[Sample], input_size: int, passes: int) -> int:
    for _ in range(passes):
        for sample in samples:
            cv2.resize(cv2.imread(str(sample.path)), (input_size, input_size))
    return passes * len(samples)


class GluonCVProcess:
    """GluonCV in a process of its own, which works only when it is asked to."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        threads = {"OMP_NUM_THREADS": "1", "MXNET_CPU_WORKER_NTHREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = AskedProcess("gluoncv_input.py", threads)
        images = [
            {
                "path": str(sample.path.resolve()),
                "boxes": sample.ground_truth.boxes.tolist(),
                "labels": sample.ground_truth.labels.tolist(),
            }
            for sample in samples
        ]
        self.versions: dict[str, str] = self._process.ask(images)

    def turn(self, input_size: int, passes: int) -> Seconds:
        return Seconds(*self._process.ask({"input_size": input_size, "passes": passes}))

    def close(self) -> None:
        self._process.close()


def pin_to_one_core() -> int | None:
    """Keep this process, its threads and its children on one core; returns which, None where that is not possible."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    # Threads that libraries started while they were imported keep to their cores unless they are told, one by one.
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), {core})
    return core


def measure(
    samples: Sequence[Sample], input_size: int, passes: int, rounds: int, gluoncv: GluonCVProcess | None
) -> dict[str, Any]:
    """Return for every variant its rates and what share of torchvision's and GluonCV's time it takes."""
    ours = OurInput(samples, input_size, passes, with_colours=True)
    uncoloured = OurInput(samples, input_size, passes, with_colours=False)
    torchvision = TorchvisionInput(samples, input_size, passes)
    variants: dict[str, Callable[[], Seconds]] = {
        WHOLE: lambda: timed(ours.turn),
        UNCOLOURED: lambda: timed(uncoloured.turn),
        TORCHVISION: lambda: timed(torchvision.turn),
        BARE: lambda: timed(lambda: decode_and_resize(samples, input_size, passes)),
    }
    if gluoncv is not None:
        variants[GLUONCV] = lambda: gluoncv.turn(input_size, passes)
    turns = take_turns(variants, rounds)
    whole = [seconds.clock for seconds in turns[WHOLE]]
    return {
        name: {
            "images_per_second": 1 / statistics.median(seconds.clock for seconds in of_variant),
            "images_per_computing_second": 1 / statistics.median(seconds.computing for seconds in of_variant),
            "rate_of_this_project_over_it": median_ratio([seconds.clock for seconds in of_variant], whole),
            "rounds_images_per_second": [1 / seconds.clock for seconds in of_variant],
        }
        for name, of_variant in turns.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=test_data() / "coco_tiny", help="COCO or VOC layout")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--sizes", default="300,512")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passes", type=int, default=4, help="over all images, a turn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environment = recorded_environment()
    core = pin_to_one_core()
    source = find_source(options.data_root, train_split=options.split, val_split=options.split)
    samples, _ = load_training_samples(source, source.class_names())
    gluoncv = None
    if ORACLE_PYTHON.is_file():
        gluoncv = GluonCVProcess(samples)
    else:
        print(f"GluonCV is left out: there is no {ORACLE_PYTHON}; tests/oracle/make_reference.sh makes it")
    results: dict[str, Any] = {
        "environment": environment | {"opencv": cv2.__version__, "core": core},
        "gluoncv": None if gluoncv is None else gluoncv.versions,
        "images": len(samples),
        "passes": options.passes,
        "goal_images_per_second": GOAL,
        "sizes": {},
    }
    rows = []
    for size in map(int, options.sizes.split(",")):
        measured = measure(samples, size, options.passes, options.rounds, gluoncv)
        is_met = measured[WHOLE]["images_per_second"] >= GOAL
        results["sizes"][str(size)] = {"goal_met": is_met, "variants": measured}
        rows += [
            (
                name,
                str(size),
                f"{values['images_per_second']:.1f}",
                f"{values['images_per_computing_second']:.1f}",
                f"{values['rate_of_this_project_over_it']:.2f}",
            )
            for name, values in measured.items()
        ]
        if options.json is not None:
            write_json(options.json, results)
    if gluoncv is not None:
        gluoncv.close()
    header = ("input", "size", "images/s", "images/computing s", "this project's rate by its")
    print(f"{len(samples)} images of {options.data_root.name}, one core, {options.rounds} rounds, medians")
    print(text_table(header, rows))
    for size, of_size in results["sizes"].items():
        print(f"goal of {GOAL:.0f} images/s a core at {size}: {'met' if of_size['goal_met'] else 'MISSED'}")


if __name__ == "__main__":
    main()
