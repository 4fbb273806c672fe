"""What do half precision and int8 cost and bring, in ONNX Runtime on this CPU?

    python benchmarks/int8_table.py --out FOLDER [--json OUT.json] [--bccd-weights FILE] [NETWORK...]

Every network is exported in float32, half precision and int8 for both targets, and all files take turns at batch
size 1, decode and NMS included. Networks of the table have random weights, which say how fast they are and nothing
of their scores. Scores are of the detector of shapes that ships with the package, on 500 held-out pictures, and of
one of blood cells (`--bccd-weights`, as `benchmarks/bccd.py` trains it) on the test list; each is calibrated on
images of its training list.
"""

import argparse
import dataclasses
import functools
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from _common.turns import median_ratio, recorded_environment, rested_ms, take_turns, test_data
from export.file_metadata import Int8Target
from export.onnx import export_onnx
from export.quantize_options import USUAL_IMAGES, QuantizeOptions
from export.steps import STEPS
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.text_table import text_table
from ssd_train import build_network
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.generated import SHAPE_CLASSES
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.source import find_source
from ssd_train.evaluation.evaluate import score
from ssd_train.evaluation.loop import run_detector
from ssd_train.files import write_json
from ssd_train.metrics.agreement import agreement_ap
from ssd_train.metrics.protocol import Protocol
from ssd_train.precisions import in_precision

NETWORKS = (
    "ssd_300_vgg16_atrous_voc",
    "ssd_512_vgg16_atrous_voc",
    "ssd_512_resnet50_v1_coco",
    "ssd_512_mobilenet1.0_voc",
)
SMALL = "ssd_300_mobilenet0.25_custom"
# As `bccd.py` trains it.
BLOOD_CELLS_NETWORK = "ssd_512_mobilenet0.25_custom"
BLOOD_CELLS = ("Platelets", "RBC", "WBC")
# Ranges of random weights need no more; the speed does not depend on them.
RANDOM_IMAGES = 4
VAL_PICTURES = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to be exported, and where it is trained, what it is scored on."""

    name: str
    network: str
    weights: str
    calibration: Path
    images: int | None
    classes: tuple[str, ...] | None = None
    held_out: Dataset | None = None


def folder_of(dataset: Dataset, folder: Path) -> Path:
    """Gather a list's images in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in dataset.samples:
        link = folder / sample.path.name
        if not link.exists():
            link.symlink_to(sample.path.resolve())
    return folder


def export_all(subject: Subject, folder: Path) -> dict[str, Path]:
    network = build_network(subject.network, weights=subject.weights, classes=subject.classes)
    files = {name: export_onnx(in_precision(network, name), folder) for name in ("fp32", "fp16")}
    for name, target in (("int8", Int8Target.PORTABLE), ("int8 cpu", Int8Target.CPU)):
        options = QuantizeOptions(
            calibration_data=subject.calibration, calibration_images=subject.images, int8_target=target
        )
        made = STEPS["int8"].apply(files["fp32"], folder / target, options).path
        assert made is not None
        files[name] = made
    return files


def measure(subject: Subject, files: dict[str, Path], rounds: int, threads: int) -> list[dict[str, Any]]:
    """Time all files in turns, and score those of a trained network."""
    runners = {name: OnnxRuntimeRunner(path, threads=threads) for name, path in files.items()}
    spec = runners["fp32"].spec
    image = np.random.default_rng(0).normal(size=(1, 3, *spec.input_size)).astype(np.float32)

    variants = {
        name: functools.partial(rested_ms, functools.partial(runner.run, image)) for name, runner in runners.items()
    }
    times = take_turns(variants, rounds)
    found = {}
    if subject.held_out is not None:
        for name, runner in runners.items():
            found[name] = run_detector(subject.held_out.samples, runner.run, runner.spec)
    rows = []
    for name, path in files.items():
        row: dict[str, Any] = {
            "detector": subject.name,
            "precision": name,
            "size_mb": path.stat().st_size / 1e6,
            "size_ratio": path.stat().st_size / files["fp32"].stat().st_size,
            "latency_ms": statistics.median(times[name]),
            "speed_up": median_ratio(times["fp32"], times[name]),
        }
        if subject.held_out is not None:
            for metric in ("voc", "coco"):
                report = score(subject.held_out, found[name], spec, metric=metric, protocol=Protocol.STANDARD)
                row[report.headline_name] = 100 * report.headline
            sizes = [sample.image_size for sample in subject.held_out.samples]
            row["agreement_ap"] = 100 * agreement_ap(found["fp32"], found[name], sizes, len(spec.class_names))
        rows.append(row)
    return rows


def find_subjects(options: argparse.Namespace) -> list[Subject]:
    shapes = write_shapes(options.out / "shapes", train=USUAL_IMAGES, val=VAL_PICTURES, seed=1)
    classes = tuple(sorted(SHAPE_CLASSES))
    pictures = folder_of(find_source("voc", shapes).load("train", classes), options.out / "calibration" / "shapes")
    subjects = [
        Subject(name=name, network=name, weights="random", calibration=pictures, images=RANDOM_IMAGES)
        for name in options.networks
    ]
    subjects.append(
        Subject(
            name="shapes",
            network=SMALL,
            weights="shapes",
            calibration=pictures,
            images=None,
            held_out=find_source("voc", shapes).load("val", classes),
        )
    )
    if options.bccd_weights is not None:
        root = test_data() / "bccd"
        train = find_source("voc", root).load("train", BLOOD_CELLS)
        subjects.append(
            Subject(
                name="blood cells",
                network=BLOOD_CELLS_NETWORK,
                weights=str(options.bccd_weights),
                calibration=folder_of(train, options.out / "calibration" / "bccd"),
                images=None,
                classes=BLOOD_CELLS,
                held_out=find_source("voc", root).load("test", BLOOD_CELLS),
            )
        )
    return subjects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and models")
    parser.add_argument("--bccd-weights", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves ONNX Runtime its default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environment = recorded_environment()
    rows: list[dict[str, Any]] = []
    for subject in find_subjects(options):
        files = export_all(subject, options.out / "models" / subject.name.replace(" ", "_"))
        rows += measure(subject, files, options.rounds, options.threads)
        print(f"{subject.name} done", flush=True)
    header = ("detector", "precision", "MB", "of fp32", "ms", "times fp32", "VOC07 mAP", "COCO AP", "agreement AP")
    cells = [
        (
            row["detector"],
            row["precision"],
            f"{row['size_mb']:.1f}",
            f"{row['size_ratio']:.3f}",
            f"{row['latency_ms']:.1f}",
            f"{row['speed_up']:.2f}",
            *(f"{row[key]:.2f}" if key in row else "-" for key in ("VOC07 mAP", "AP", "agreement_ap")),
        )
        for row in rows
    ]
    print(text_table(header, cells, left=2))
    if options.json is not None:
        write_json(options.json, {"environment": environment, "threads": options.threads, "rows": rows})


if __name__ == "__main__":
    main()
