"""What does an evaluation take beyond the network, and how do time and memory grow with what is asked for?

    python benchmarks/growth.py --out FOLDER [--json OUT.json] [--chart OUT.png] [--only end-to-end,batch]

On this CPU, in ONNX Runtime, float32:

- end to end: the evaluation loop from JPEG files (decode, pre-processing, network, NMS, boxes in image pixels) and the
  same model on images that are ready, in turns; for each network the time of the first by that of the second, and how
  long `ssd-deploy eval` takes as a command, start of the process included;
- batch: 1 to 32 images a call;
- folder: `ssd-deploy eval` with the detector of shapes over 10 to 10,000 generated pictures, the whole process;
- classes: the smallest network with 20 to 1,000 classes and random weights.

Memory is the peak of a process that does nothing else.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common.run_model import peak_mb, run_model
from _common.turns import median_ratio, recorded_environment, take_turns, test_data
from export.onnx import export_onnx
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.benchmark.measure import wait_until_idle
from ssd_deploy.text_table import text_table
from ssd_train import build_network
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.source import find_source
from ssd_train.evaluation.loop import run_detector
from ssd_train.files import write_json, written_atomically
from ssd_train.preprocess import preprocess

END_TO_END = (
    "ssd_300_vgg16_atrous_coco",
    "ssd_512_vgg16_atrous_coco",
    "ssd_512_resnet50_v1_coco",
    "ssd_512_mobilenet1.0_coco",
)
BATCHED = ("ssd_300_vgg16_atrous_coco", "ssd_512_mobilenet1.0_coco")
SMALL = "ssd_300_mobilenet0.25_custom"
BATCHES = (1, 2, 4, 8, 16, 32)
FOLDERS = (10, 100, 1000, 10_000)
CLASSES = (20, 50, 100, 200, 500, 1000)
PARTS = ("end-to-end", "batch", "folder", "classes")


def one_pass_ms(call: Callable[[], object]) -> float:
    """Return the milliseconds of a call that the threads of the one before do not disturb."""
    wait_until_idle()
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def command(*arguments: str) -> dict[str, float]:
    """Run `ssd-deploy` in a process of its own; returns its seconds and its peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "ssd_deploy", *arguments], stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        try:
            peak = max(peak, peak_mb(str(process.pid)))
        except (OSError, StopIteration):
            break  # it has just ended
        time.sleep(0.02)
    if process.wait() != 0:
        raise SystemExit(f"ssd-deploy {' '.join(arguments)} ended with code {process.returncode}")
    return {"seconds": time.perf_counter() - start, "peak_mb": peak}


def end_to_end(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name in END_TO_END:
        path = export_onnx(build_network(name, weights="random"), options.out)
        runner = OnnxRuntimeRunner(path)
        dataset = find_source("coco", options.data_root).load("val2017", runner.spec.class_names)
        ready = [preprocess(sample.load_image(), runner.spec)[None] for sample in dataset.samples]

        def network(ready: list[Any] = ready, runner: OnnxRuntimeRunner = runner) -> None:
            for image in ready:
                runner.run(image)

        def evaluation(dataset: Any = dataset, runner: OnnxRuntimeRunner = runner) -> None:
            run_detector(dataset.samples, runner.run, runner.spec, batch_size=1)

        variants = {"network": lambda: one_pass_ms(network), "evaluation": lambda: one_pass_ms(evaluation)}
        turns = take_turns(variants, options.rounds)
        arguments = ("eval", "--model", str(path), "--dataset", "coco", "--data-root", str(options.data_root))
        whole = command(*arguments, "--batch-size", "1")
        rows.append(
            {
                "network": name,
                "images": len(ready),
                "network_ms": statistics.median(turns["network"]) / len(ready),
                "evaluation_ms": statistics.median(turns["evaluation"]) / len(ready),
                "evaluation_by_network": median_ratio(turns["evaluation"], turns["network"]),
                "command_seconds": whole["seconds"],
            }
        )
        print(rows[-1], flush=True)
    return rows


def batch(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name in BATCHED:
        path = export_onnx(build_network(name, weights="random"), options.out)
        for count in BATCHES:
            calls = str(max(1, 16 // count))
            alone = run_model(path, "--batch", str(count), "--calls", calls)
            rows.append({"network": name, "batch": count, **alone, "peak_mb_per_image": alone["peak_mb"] / count})
            print(rows[-1], flush=True)
    return rows


def folder(options: argparse.Namespace) -> list[dict[str, Any]]:
    root = write_shapes(options.out / "shapes", train=1, val=max(FOLDERS), seed=1)
    lists = root / "ImageSets" / "Main"
    names = (lists / "val.txt").read_text(encoding="utf-8").split()
    path = export_onnx(build_network(SMALL, weights="shapes"), options.out)
    rows = []
    for count in FOLDERS:
        (lists / f"first_{count}.txt").write_text("\n".join(names[:count]) + "\n", encoding="utf-8")
        arguments = ("eval", "--model", str(path), "--dataset", "voc", "--data-root", str(root))
        whole = command(*arguments, "--split", f"first_{count}")
        ms = whole["seconds"] / count * 1e3
        rows.append({"images": count, "ms_per_image": ms, "peak_mb_per_image": whole["peak_mb"] / count, **whole})
        print(rows[-1], flush=True)
    return rows


def classes(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for count in CLASSES:
        names = [f"class {number}" for number in range(count)]
        path = export_onnx(build_network(SMALL, weights="random", classes=names), options.out / f"classes_{count}")
        alone = run_model(path, "--calls", "15")
        ms = alone["ms_per_image"]
        rows.append({"classes": count, **alone, "ms_per_class": ms / count, "mb_per_class": alone["peak_mb"] / count})
        print(rows[-1], flush=True)
    return rows


# What each panel of the chart shows: part, what grows, its name, the two values of a row and their names.
PANELS = (
    ("batch", "batch", "images a call", ("ms_per_image", "ms an image"), ("peak_mb_per_image", "MB an image")),
    ("folder", "images", "pictures", ("ms_per_image", "ms an image"), ("peak_mb_per_image", "MB an image")),
    ("classes", "classes", "classes", ("ms_per_image", "ms an image"), ("peak_mb", "MB")),
)
# Of time and of memory.
COLORS = ("#0072B2", "#E69F00")
LINES = ("-", "--")


def write_chart(results: dict[str, Any], path: Path) -> None:
    """Draw time and memory over what grows, a column a part."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if panel[0] in results]
    figure = Figure(figsize=(4 * len(panels), 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for column, (part, key, label, time_value, memory_value) in zip(
        figure.subplots(2, len(panels), squeeze=False).T, panels, strict=True
    ):
        names = dict.fromkeys(row.get("network", SMALL) for row in results[part])
        for axes, (value, value_label), color in zip(column, (time_value, memory_value), COLORS, strict=True):
            for name, style in zip(names, LINES, strict=False):
                rows = [row for row in results[part] if row.get("network", SMALL) == name]
                x, y = [row[key] for row in rows], [row[value] for row in rows]
                axes.loglog(x, y, f"o{style}", color=color, label=name)
                for place, number in zip(x, y, strict=True):
                    axes.annotate(f"{number:.3g}", (place, number), (0, 5), textcoords="offset points", fontsize=7)
            axes.set_xticks(x, [f"{place:,}" for place in x], fontsize=8)
            axes.minorticks_off()
            low, high = axes.get_ylim()
            # At least a decade, so that a flat curve looks flat.
            axes.set_ylim(min(low, high / 10), high * 1.5)
            axes.set_yticks([])
            axes.set_ylabel(value_label)
            axes.spines[["top", "right"]].set_visible(False)
        column[0].set_title(part, fontsize=10)
        column[0].legend(fontsize=7, frameon=False, loc="best")
        column[1].set_xlabel(label)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for models and pictures")
    parser.add_argument("--data-root", type=Path, default=test_data() / "coco_tiny", help="COCO layout, val2017")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS), help="with commas between")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    measures = {"end-to-end": end_to_end, "batch": batch, "folder": folder, "classes": classes}
    results: dict[str, Any] = {"environment": recorded_environment(), "cores": os.cpu_count()}
    for part in options.only.split(","):
        results[part] = measures[part](options)
        if options.json is not None:
            write_json(options.json, results)
        columns = [name for name in results[part][0] if name != "peak_mb" or part == "classes"]
        cells = [[f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in columns]
                 for row in results[part]]  # fmt: skip
        print(text_table(tuple(columns), [tuple(row) for row in cells], left=1))
    if options.chart is not None and any(panel[0] in results for panel in PANELS):
        write_chart(results, options.chart)


if __name__ == "__main__":
    main()
