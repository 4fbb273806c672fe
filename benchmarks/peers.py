"""How fast is a detector here, beside what one would use instead, with the same weights?

    python benchmarks/peers.py --out FOLDER [--json OUT.json] [--chart OUT.png] [--table OUT.md] [NETWORK...]

For each network, on this CPU, one photograph a call, decode and NMS included, with as many threads for each:

- GluonCV on MXNet, hybridized and static, in an environment of its own, which is made where it is missing
  (`tests/oracle/make_reference.sh`, with the seeded weights that the parity tests use);
- this project from the same `.params` file: ONNX Runtime and OpenVINO in float32, as exported and with Winograd's
  convolutions (`export --winograd`), OpenVINO in bf16 and fp16 where the CPU has units for them, both with int8 for the
  CPU (calibrated on photographs), the network without decode and NMS, PyTorch as it is and channels-last, and with
  `--compile` compiled;
- for scale, in turn with the network that is nearest: torchvision's `ssd300_vgg16` and Ultralytics' smallest detector,
  from their own ONNX exports, in ONNX Runtime and in OpenVINO; random weights. Ultralytics' package (AGPL) goes into an
  environment in FOLDER, or lies in .venv-peers.

All take turns; a turn begins when the threads of the one before rest, with a call that is not timed. A way that fails
costs itself alone, and each network's rows are printed and written when they are there. Detections of GluonCV and of
the float32 ways are compared, and the logits of all ways. Peak memory is that of a process which does nothing but load
a model and run it. At the end come the medians over the networks, of each way and of the fastest of each kind beside
the goals.
"""

import argparse
import functools
import math
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from _common.asked_process import ROOT
from _common.gluoncv_peer import GluonCV, without_partner
from _common.other_detectors import OTHERS, RUNTIMES
from _common.peer_ways import (
    COMPILED,
    FLOAT,
    FLOAT32,
    FP32_FILE,
    GLUONCV,
    INT8_FILE,
    NETWORK,
    WAYS,
    WINOGRAD_FILE,
    summary,
)
from _common.peers_chart import write_chart
from _common.peers_tables import markdown, print_row, print_summary
from _common.run_model import run_model
from _common.turns import median_ratio, recorded_environment, rested_ms, take_turns, test_data
from export.graph import network_only
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from export.session import open_session, quiet_options
from export.steps import STEPS
from ssd_deploy.backends.base import Runner
from ssd_train import build_network
from ssd_train.errors import first_line
from ssd_train.files import write_json, written_atomically
from ssd_train.networks.ssd import SSD
from ssd_train.spec import INPUT_NAME, RAW_NAMES

NETWORKS = tuple(
    f"{stem}_{data}"
    for stem in ("ssd_300_vgg16_atrous", "ssd_512_vgg16_atrous", "ssd_512_resnet50_v1", "ssd_512_mobilenet1.0")
    for data in ("voc", "coco")
)
CALIBRATION_IMAGES = 8

BARE = "its network alone"
# The float32 files as exported and as ONNX Runtime rewrites them, whose memory is measured.
MEMORY = {
    FP32_FILE: ("fp32", "fp32, rewritten for this CPU"),
    WINOGRAD_FILE: ("Winograd", "Winograd, rewritten for this CPU"),
}

Images = NDArray[np.float32]


def bare_network(path: Path, threads: int) -> onnxruntime.InferenceSession:
    model = network_only(onnx.load(path)).SerializeToString()
    return open_session(model, path.name, quiet_options(threads=threads))


def make_files(network: SSD, folder: Path, skipped: dict[str, str]) -> dict[str, Any]:
    """Return the network and its files, by what `Way.file` calls them; say what cannot be made."""
    path = export_onnx(network, folder)
    models: dict[str, Any] = {NETWORK: network, FP32_FILE: path}
    int8 = QuantizeOptions(
        calibration_data=test_data() / "coco_tiny" / "val2017",
        calibration_images=CALIBRATION_IMAGES,
        int8_target="cpu",
    )
    for step, settings, file in (("int8", int8, INT8_FILE), ("winograd", None, WINOGRAD_FILE)):
        try:
            result = STEPS[step].apply(path, folder, settings)
            if result.path is None:
                skipped[f"{file} file"] = "; ".join(result.notes)
            else:
                models[file] = result.path
        except Exception as error:  # of any library
            skipped[f"{file} file"] = first_line(error)
    return models


def others_beside(name: str, options: argparse.Namespace, skipped: dict[str, str]) -> dict[str, Callable[[], object]]:
    """Return a call of each of others' detectors that is measured beside a network, in each runtime."""
    calls: dict[str, Callable[[], object]] = {}
    for other in (other for other in OTHERS if other.beside == name):
        try:
            path = other.export(options.out.resolve())
        except Exception as error:  # of any library
            skipped[other.label] = first_line(error)
            continue
        image = np.random.default_rng(0).random(other.input_shape, dtype=np.float32)
        for runtime, open_file in RUNTIMES.items():
            try:
                calls[f"{other.label}, {runtime}"] = open_file(path, image, options.threads)
            except Exception as error:  # of any library
                skipped[f"{other.label}, {runtime}"] = first_line(error)
    return calls


def logit_errors(runners: dict[str, Runner], image: Images) -> dict[str, float]:
    """Return how far each way's logits are from the exported file's in float32: root mean square, by their spread."""
    logits = {label: runner.run_raw(image).cls_logits for label, runner in runners.items()}
    if FLOAT not in logits:
        return {}
    reference = logits[FLOAT]
    return {
        label: float(np.sqrt(np.mean((values - reference) ** 2)) / reference.std()) for label, values in logits.items()
    }


def memory_of(models: dict[str, Any], image: Path, folder: Path, threads: int) -> dict[str, float]:
    """Return the peak MB of processes that run the float32 files, as they are and rewritten for this CPU."""
    peaks = {}
    for file in (file for file in MEMORY if file in models):
        for label, path in zip(
            MEMORY[file], (models[file], STEPS["cpu"].apply(models[file], folder).path), strict=True
        ):
            assert path is not None
            measured = run_model(path, "--images", str(image), "--threads", str(threads))
            peaks[label] = measured["peak_mb"]
    return peaks


def measure(name: str, reference: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Export and time a network in every way, in turns."""
    folder = options.out / name
    folder.mkdir(parents=True, exist_ok=True)
    image_path, gluoncv_out = folder / "image.npy", folder / "gluoncv.npz"
    image = np.ascontiguousarray(np.load(reference / f"{name}.npz")["x"][:1])
    np.save(image_path, image)
    params = reference / f"{name}.params"
    skipped: dict[str, str] = {}
    models = make_files(build_network(name, weights=params), folder, skipped)

    gluoncv = GluonCV(name, params, image_path, gluoncv_out, options.threads)
    runners: dict[str, Runner] = {}
    for way in WAYS:
        if way.label == COMPILED and not options.compile:
            continue
        try:
            runners[way.label] = way.open(models, options.threads)
        except Exception as error:  # of any library
            skipped[way.label] = first_line(error)
    bare = bare_network(models[FP32_FILE], options.threads)
    calls: dict[str, Callable[[], object]] = {
        **{label: functools.partial(runner.run, image) for label, runner in runners.items()},
        BARE: lambda: bare.run(list(RAW_NAMES), {INPUT_NAME: image}),
        **others_beside(name, options, skipped),
    }
    turns: dict[str, Callable[[], float]] = {GLUONCV: functools.partial(gluoncv.turn, options.calls)}
    turns |= {label: functools.partial(rested_ms, call, options.calls) for label, call in calls.items()}
    times = take_turns(turns, options.rounds, skipped)
    if GLUONCV not in times:
        raise SystemExit(skipped[GLUONCV])
    gluoncv.close()
    floats = [way.label for way in WAYS if way.kind == FLOAT32 and way.label in times]
    partners = {label: without_partner(runners[label].run(image), gluoncv_out) for label in floats}
    errors = logit_errors({label: runner for label, runner in runners.items() if label in times}, image)
    for runner in runners.values():
        runner.close()
    memory = memory_of(models, image_path, folder, options.threads)
    return {
        "network": name,
        "ms": {label: statistics.median(values) for label, values in times.items()},
        "rounds_ms": times,
        "times_gluoncv": {label: median_ratio(times[GLUONCV], values) for label, values in times.items()},
        "over_the_network": median_ratio(times[FLOAT], times[BARE]) - 1 if {FLOAT, BARE} <= set(times) else math.nan,
        "peak_mb": {GLUONCV: gluoncv.peak_mb, **memory},
        "without_partner": partners,
        "logit_error": errors,
        "skipped": skipped,
        "versions": gluoncv.versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--out", type=Path, required=True, help="folder for models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2, help="timed ones of a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--table", type=Path, help="file for the table in Markdown")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    environment = recorded_environment()
    made = subprocess.run(
        ["bash", str(ROOT / "tests" / "oracle" / "make_reference.sh")], stdout=subprocess.PIPE, text=True, check=True
    )
    results: dict[str, Any] = {"environment": environment, "threads": options.threads, "rows": [], "failed": {}}
    for name in options.networks:
        try:
            results["rows"].append(measure(name, Path(made.stdout.strip()), options))
            print_row(results["rows"][-1])
        except (Exception, SystemExit) as error:  # the other networks are still to come
            results["failed"][name] = first_line(error)
            print(f"\n{name}: failed: {first_line(error)}")
        results["summary"] = summary(results["rows"])
        if options.json is not None:
            write_json(options.json, results)
    print_summary(results["rows"], results["summary"])
    if options.table is not None:
        with written_atomically(options.table) as temporary:
            temporary.write_text(markdown(results["rows"]), encoding="utf-8")
    if options.chart is not None and results["rows"]:
        machine = f"{environment['cpu']}, {options.threads} threads"
        write_chart(results["rows"], options.chart, machine)


if __name__ == "__main__":
    main()
