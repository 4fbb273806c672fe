"""How fast is a detector here, beside what one would use instead, with the same weights?

    python benchmarks/peers.py --out FOLDER [--json OUT.json] [--chart OUT.png] [--rounds 7] [NETWORK...]

For each network, on this CPU, one photograph a call, decode and NMS included, with as many threads for each:

- GluonCV on MXNet, hybridized and static, in an environment of its own, which is made where it is missing
  (`tests/oracle/make_reference.sh`, with the seeded weights that the parity tests use);
- this project from the same `.params` file: ONNX Runtime in float32, as exported and with Winograd's convolutions
  (`export --winograd`), the network without decode and NMS, int8 for the CPU (calibrated on photographs), PyTorch as it
  is and channels-last, and with `--compile` compiled;
- for 300 pixels and 21 classes torchvision's `ssd300_vgg16` (random weights), eager and through its own ONNX export.

All take turns; a turn begins when the threads of the one before rest, with a call that is not timed. Detections of
GluonCV and of ONNX Runtime are compared. Peak memory is that of a process which does
nothing but load a model and run it.
"""

import argparse
import functools
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torchvision.models.detection import ssd300_vgg16

from _common.asked_process import ROOT, AskedProcess
from _common.run_model import run_model
from _common.turns import median_ratio, recorded_environment, rested_ms, take_turns, test_data
from export.graph import network_only
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from export.session import open_session, quiet_options
from export.steps import STEPS
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_deploy.benchmark.measure import wait_until_idle
from ssd_deploy.text_table import text_table
from ssd_train import build_network
from ssd_train.boxes import iou
from ssd_train.detections import PaddedDetections
from ssd_train.files import write_json, written_atomically
from ssd_train.spec import INPUT_NAME, RAW_NAMES

NETWORKS = tuple(
    f"{stem}_{data}"
    for stem in ("ssd_300_vgg16_atrous", "ssd_512_vgg16_atrous", "ssd_512_resnet50_v1", "ssd_512_mobilenet1.0")
    for data in ("voc", "coco")
)
# torchvision's detector has this size and as many classes.
COMPARED_WITH_TORCHVISION = "ssd_300_vgg16_atrous_voc"
CALIBRATION_IMAGES = 8
# GluonCV's in a turn, after one that warms up, as `rested_ms` makes them.
TIMED_CALLS = 3
# How long MXNet's threads look for work after a call, which shows in a process of their own.
REST_S = 0.3

WINOGRAD = "ONNX Runtime fp32 Winograd"
GLUONCV, FLOAT, BARE, INT8 = "GluonCV", "ONNX Runtime fp32", "its network alone", "ONNX Runtime int8"
# The float32 files, as exported and as ONNX Runtime rewrites them.
FOR_CPU = {FLOAT: "fp32, rewritten for this CPU", WINOGRAD: "Winograd, rewritten for this CPU"}
EAGER, CHANNELS_LAST, COMPILED = "PyTorch", "PyTorch channels-last", "PyTorch compiled"
PEER, PEER_ONNX = "torchvision ssd300", "torchvision ssd300 in ONNX Runtime"

Images = NDArray[np.float32]


class GluonCV:
    """A GluonCV detector in its own process, which answers when it is asked to run."""

    def __init__(self, network: str, params: Path, image: Path, out: Path, threads: int) -> None:
        self._process = AskedProcess("gluoncv_detector.py", {"OMP_NUM_THREADS": str(threads)})
        wanted = {"network": network, "params": str(params), "image": str(image), "out": str(out)}
        self.versions: dict[str, str] = self._process.ask(wanted)
        self.peak_mb = 0.0

    def turn(self) -> float:
        """Return the milliseconds of one image."""
        wait_until_idle()
        answer = self._process.ask({"runs": 1 + TIMED_CALLS})
        self.peak_mb = answer["peak_mb"]
        time.sleep(REST_S)
        return statistics.median(answer["ms"][1:])

    def close(self) -> None:
        self._process.close()


def without_partner(ours: PaddedDetections, theirs: Path) -> int:
    """Count GluonCV's detections that have none of ours of that label, at an IoU of 0.99 and 1e-4 of its score."""
    saved = np.load(theirs)
    alone = 0
    for label, score, box in zip(saved["labels"], saved["scores"], saved["boxes"], strict=True):
        near = (ours.labels[0] == label) & (np.abs(ours.scores[0] - score) < 1e-4)
        alone += label >= 0 and not (
            near.any() and iou(box[None].astype(float), ours.boxes[0][near].astype(float)).max() > 0.99
        )
    return int(alone)


def torchvision_variants(image: Images, folder: Path, threads: int) -> dict[str, Callable[[], object]]:
    """torchvision's detector, as it is and through its own export."""
    torch.manual_seed(0)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=21).eval()
    pictures = [torch.from_numpy(image[0])]
    path = folder / "torchvision.onnx"
    torch.onnx.export(model, (pictures,), str(path), dynamo=False, opset_version=17, input_names=["image"])
    session = open_session(path, path.name, quiet_options(threads=threads))

    def eager() -> None:
        with torch.inference_mode():
            model(pictures)

    return {PEER: eager, PEER_ONNX: lambda: session.run(None, {"image": image[0]})}


def bare_network(path: Path, threads: int) -> onnxruntime.InferenceSession:
    model = network_only(onnx.load(path)).SerializeToString()
    return open_session(model, path.name, quiet_options(threads=threads))


def measure(name: str, reference: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Export and time a network in every way, in turns."""
    folder = options.out / name
    folder.mkdir(parents=True, exist_ok=True)
    image_path, gluoncv_out = folder / "image.npy", folder / "gluoncv.npz"
    image = np.ascontiguousarray(np.load(reference / f"{name}.npz")["x"][:1])
    np.save(image_path, image)
    params = reference / f"{name}.params"
    path = export_onnx(build_network(name, weights=params), folder)
    int8 = QuantizeOptions(
        calibration_data=test_data() / "coco_tiny" / "val2017",
        calibration_images=CALIBRATION_IMAGES,
        int8_target="cpu",
    )
    made = {FLOAT: path, INT8: STEPS["int8"].apply(path, folder, int8).path}
    made[WINOGRAD] = STEPS["winograd"].apply(path, folder).path
    files = {label: file for label, file in made.items() if file is not None}

    gluoncv = GluonCV(name, params, image_path, gluoncv_out, options.threads)
    runners = {label: OnnxRuntimeRunner(file, threads=options.threads) for label, file in files.items()}
    bare = bare_network(path, options.threads)
    variants: dict[str, Callable[[], float]] = {GLUONCV: gluoncv.turn}
    for label, runner in runners.items():
        variants[label] = functools.partial(rested_ms, functools.partial(runner.run, image))
    variants[BARE] = lambda: rested_ms(lambda: bare.run(list(RAW_NAMES), {INPUT_NAME: image}))
    torch_options: dict[str, dict[str, bool]] = {EAGER: {}, CHANNELS_LAST: {"channels_last": True}}
    if options.compile:
        torch_options[COMPILED] = {"compiled": True}
    for label, keywords in torch_options.items():
        torch_runner = TorchRunner(build_network(name, weights=params), **keywords)
        variants[label] = functools.partial(rested_ms, functools.partial(torch_runner.run, image))
    if name == COMPARED_WITH_TORCHVISION:
        for label, call in torchvision_variants(image, folder, options.threads).items():
            variants[label] = functools.partial(rested_ms, call)
    times = take_turns(variants, options.rounds)
    gluoncv.close()
    float_files = {label: files[label] for label in FOR_CPU if label in files}
    for_cpu = {FOR_CPU[label]: STEPS["cpu"].apply(file, folder).path for label, file in float_files.items()}
    in_own_process = float_files | for_cpu
    alone = {
        label: run_model(file, "--images", str(image_path), "--threads", str(options.threads))
        for label, file in in_own_process.items()
    }
    return {
        "network": name,
        "ms": {label: statistics.median(values) for label, values in times.items()},
        "times_gluoncv": {label: median_ratio(times[GLUONCV], values) for label, values in times.items()},
        "times_torchvision_onnx": {
            label: median_ratio(times[PEER_ONNX], times[label]) for label in float_files if PEER_ONNX in times
        },
        "over_the_network": median_ratio(times[FLOAT], times[BARE]) - 1,
        "peak_mb": {GLUONCV: gluoncv.peak_mb, **{label: each["peak_mb"] for label, each in alone.items()}},
        "without_partner": {label: without_partner(runners[label].run(image), gluoncv_out) for label in float_files},
        "versions": gluoncv.versions,
    }


def time_and_ratio(row: dict[str, Any], label: str) -> tuple[str, str]:
    """Cells of the table: milliseconds, and times as fast as GluonCV."""
    if label not in row["ms"]:
        return "-", "-"
    return f"{row['ms'][label]:.1f}", f"{row['times_gluoncv'][label]:.2f}"


def write_chart(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw how many times as fast as GluonCV each way is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colors = {GLUONCV: "#999999", EAGER: "#56B4E9", CHANNELS_LAST: "#CC79A7", COMPILED: "#882255"}
    colors |= {FLOAT: "#0072B2", WINOGRAD: "#009E73", INT8: "#E69F00"}
    shown = {label: color for label, color in colors.items() if any(label in row["ms"] for row in rows)}
    width = 0.85 / len(shown)
    for number, (label, color) in enumerate(shown.items()):
        places = [index + (number - (len(shown) - 1) / 2) * width for index in range(len(rows))]
        heights = [row["times_gluoncv"].get(label, math.nan) for row in rows]
        bars = axes.bar(places, heights, width, color=color, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(rows)), [row["network"].replace("_", "\n", 2) for row in rows], fontsize=8)
    axes.set_ylabel("times as fast as GluonCV, higher is better")
    axes.set_title("One photograph a call on the CPU, same weights, decode and NMS included", fontsize=10)
    axes.legend(ncols=len(shown), fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--out", type=Path, required=True, help="folder for models")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    environment = recorded_environment()
    made = subprocess.run(
        ["bash", str(ROOT / "tests" / "oracle" / "make_reference.sh")], stdout=subprocess.PIPE, text=True, check=True
    )
    rows = []
    for name in options.networks:
        rows.append(measure(name, Path(made.stdout.strip()), options))
        print(f"{name} done", flush=True)
        if options.json is not None:
            write_json(options.json, {"environment": environment, "threads": options.threads, "rows": rows})
    header = (
        "network",
        "GluonCV ms",
        *("fp32 ms", "times"),
        *("Winograd ms", "times"),
        *("int8 ms", "times"),
        "PyTorch ms",
        "decode + NMS over it",
        *("MB", "for this CPU", "Winograd for it", "GluonCV MB"),
    )
    cells = [
        (
            row["network"],
            f"{row['ms'][GLUONCV]:.0f}",
            *time_and_ratio(row, FLOAT),
            *time_and_ratio(row, WINOGRAD),
            *time_and_ratio(row, INT8),
            f"{row['ms'][EAGER]:.0f}",
            f"{100 * row['over_the_network']:.1f} %",
            *(
                f"{row['peak_mb'][label]:.0f}" if label in row["peak_mb"] else "-"
                for label in (FLOAT, *FOR_CPU.values(), GLUONCV)
            ),
        )
        for row in rows
    ]
    print(text_table(header, cells, left=1))
    for label, name in ((FLOAT, "fp32"), (WINOGRAD, "fp32, with Winograd's where it gains"), (INT8, "int8")):
        middle = statistics.median(row["times_gluoncv"].get(label, row["times_gluoncv"][FLOAT]) for row in rows)
        print(f"median of the networks, times as fast as GluonCV: {middle:.2f} in {name}")
    for row in rows:
        for label, ratio in row["times_torchvision_onnx"].items():
            print(f"{row['network']}: {label} {ratio:.2f} times as fast as {PEER_ONNX}")
        for label, count in row["without_partner"].items():
            if count:
                print(f"{row['network']}: {count} of GluonCV's detections have no partner in {label}")
    if options.chart is not None:
        write_chart(rows, options.chart)


if __name__ == "__main__":
    main()
