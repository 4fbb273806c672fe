"""What does `detect --ray` bring on more cores, and what does Ray take for it?

    python benchmarks/many_machines.py --out FOLDER [--pictures 2000] [--rounds 2] [--json OUT.json]

Pictures of a camera's size (1280x960, twelve generated pictures in each) go through the packaged detector, the whole
command each time, a thread a detector: in one process on one core and on two, and by Ray with one actor on one core,
one on two (whose second one loads) and two on two. All in turns, in an order that turns round. What each finds has to
be the same to the bit. Then what a picture costs on one thread, step by step; its bytes; and how many parts a second
the driver hands out and notes where they have no pictures. `billion_pictures.py` computes on with these numbers.

Memory is that of all processes of a command together, looked at twice a second: resident pages, shared ones counted in
each process that has them, and the same with each page's share of it (PSS).
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pyarrow.parquet as pq

from _common.turns import recorded_environment
from export.onnx import export_onnx
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.parts.listing import Part
from ssd_deploy.parts.options import Parts
from ssd_deploy.parts.ray_data import run_in_actors, shared_out
from ssd_deploy.text_table import text_table
from ssd_train import build_network
from ssd_train.datasets.generated import draw_picture
from ssd_train.files import write_json
from ssd_train.preprocess import load_image, preprocess

NETWORK = "ssd_300_mobilenet0.25_custom"
IMAGE_SIZE = (960, 1280)
TILE = 320
DRAWN = 100
JPEG_QUALITY = 92
PART_SIZE = 128
EMPTY_PARTS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the table.

    Attributes:
        name: to people.
        cores: that the whole command has.
        actors: of Ray; 0 for none.
    """

    name: str
    cores: int
    actors: int


VARIANTS = (
    Variant(name="one process, one core", cores=1, actors=0),
    Variant(name="Ray, one actor, one core", cores=1, actors=1),
    Variant(name="one process, two cores", cores=2, actors=0),
    Variant(name="Ray, one actor, two cores", cores=2, actors=1),
    Variant(name="Ray, two actors, two cores", cores=2, actors=2),
)


def write_pictures(folder: Path, count: int) -> None:
    """Write pictures of `IMAGE_SIZE`, tiles of generated ones; a folder that has them stays."""
    if folder.is_dir() and len(list(folder.iterdir())) == count:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Both sides of a generated picture are at least a tile's.
    tiles = np.stack([draw_picture(7, index)[0][:TILE, :TILE] for index in range(DRAWN)])
    rng = np.random.default_rng(7)
    rows, columns = (side // TILE for side in IMAGE_SIZE)
    for number in range(count):
        chosen = tiles[rng.integers(DRAWN, size=(rows, columns))]
        image = chosen.transpose(0, 2, 1, 3, 4).reshape(*IMAGE_SIZE, 3)
        cv2.imwrite(
            str(folder / f"{number:06d}.jpg"),
            cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
            (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY),
        )


def peak_mb(process: psutil.Process, ended: Callable[[], bool]) -> dict[str, float]:
    """Wait for a command, and return the most memory of it and all that it started."""
    peaks = {"rss_mb": 0.0, "pss_mb": 0.0}
    while not ended():
        now = dict.fromkeys(peaks, 0.0)
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    info = each.memory_full_info()
                    now["rss_mb"] += info.rss / 2**20
                    now["pss_mb"] += info.pss / 2**20
        peaks = {name: max(peak, now[name]) for name, peak in peaks.items()}
        time.sleep(0.5)
    return peaks


def run_command(variant: Variant, model: Path, pictures: Path, out: Path) -> dict[str, float]:
    """Detect in all pictures by the command line; returns its seconds and peak memory."""
    shutil.rmtree(out, ignore_errors=True)
    words = [sys.executable, "-m", "ssd_deploy", "detect", str(model), str(pictures), "--out", str(out), "--quiet"]
    ray = ["--ray", "local", "--actors", str(variant.actors), "--part-size", str(PART_SIZE)]
    words += [*ray, "--save", "parquet"] if variant.actors else ["--save", "json"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*words, "--threads", "1"],
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, range(variant.cores)),
    )
    peaks = peak_mb(psutil.Process(process.pid), lambda: process.poll() is not None)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with code {process.returncode}")
    return {"seconds": seconds, **peaks}


def found_in(out: Path) -> dict[str, Any]:
    """Return what a command found: a picture's name -> boxes, scores and labels."""
    if (out / "detections.json").exists():
        return {
            Path(entry["file"]).name: [[each[key] for each in entry["detections"]] for key in ("box", "score", "label")]
            for entry in json.loads((out / "detections.json").read_text())["images"]
        }
    rows = (row for path in out.glob("part-*.parquet") for row in pq.read_table(path).to_pylist())
    return {Path(row["path"]).name: [row["boxes"], row["scores"], row["labels"]] for row in rows}


def about_parts(out: Path, pictures: int) -> dict[str, float]:
    """Return what a second of one actor's work brings, and the bytes that are written, for each picture."""
    notes = [json.loads(path.read_text()) for path in out.glob("part-*.done.json")]
    written = sum(path.stat().st_size for path in out.iterdir())
    return {
        "actor_pictures_per_second": pictures / sum(note["seconds"] for note in notes),
        "bytes_out": written / pictures,
    }


def commands(options: argparse.Namespace, model: Path, pictures: Path) -> list[dict[str, Any]]:
    """Run every variant so many times; returns a row each."""
    turns: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in VARIANTS}
    first: dict[str, Any] = {}
    for number in range(options.rounds):
        for variant in VARIANTS[:: -1 if number % 2 else 1]:
            out = options.out / "found"
            turn = run_command(variant, model, pictures, out)
            found = found_in(out)
            first = first or found
            if found != first or len(found) != options.pictures:
                raise SystemExit(f"{variant.name}: finds something else than {VARIANTS[0].name}")
            if variant.actors:
                turn |= about_parts(out, options.pictures)
            turns[variant.name].append(turn)
            print(f"{variant.name}: {options.pictures / turn['seconds']:.1f} pictures/s", turn, flush=True)
    rows = []
    for variant in VARIANTS:
        medians = {
            name: statistics.median(turn[name] for turn in turns[variant.name]) for name in turns[variant.name][0]
        }
        rows.append(
            {
                **dataclasses.asdict(variant),
                **medians,
                "all_seconds": [turn["seconds"] for turn in turns[variant.name]],
                "pictures_per_second": options.pictures / medians["seconds"],
            }
        )
    for row in rows:
        row["times_one_core"] = row["pictures_per_second"] / rows[1 if row["actors"] else 0]["pictures_per_second"]
    return rows


def steps_ms(model: Path, pictures: Path, count: int = 100) -> dict[str, float]:
    """Return what a picture costs on one thread, by step."""
    cv2.setNumThreads(1)
    runner = OnnxRuntimeRunner(model, threads=1)
    paths = sorted(pictures.iterdir())[:count]
    times: dict[str, list[float]] = {"load_ms": [], "preprocess_ms": [], "network_ms": []}

    def timed(name: str, call: Callable[[], Any], images: int = 1) -> Any:
        start = time.perf_counter()
        answer = call()
        times[name].append((time.perf_counter() - start) * 1e3 / images)
        return answer

    images = [timed("load_ms", lambda path=path: load_image(path)) for path in paths]
    tensors = [timed("preprocess_ms", lambda image=image: preprocess(image, runner.spec)) for image in images]
    batches = [np.stack(tensors[start : start + 8]) for start in range(0, len(tensors) - 7, 8)]
    runner.run(batches[0])
    for batch in batches:
        timed("network_ms", lambda batch=batch: runner.run(batch), len(batch))
    return {name: statistics.median(values) for name, values in times.items()}


class Nothing:
    """A worker that says which part it was given."""

    def run(self, part: Part) -> int:
        return part.index


def driver_parts_per_second(count: int) -> float:
    """Return how many parts a second the driver hands out and gets answers to, with two actors that do nothing."""
    file = Path("/data/list.parquet")
    parts = [Part(index=i, start=0, count=1, file=file, group=0, offset=0) for i in range(count)]
    with shared_out(Parts(ray="local", actors=2), threads=1, device=None) as share:
        answers = run_in_actors(parts, Nothing, share)
        next(answers)  # until then actors start
        start = time.perf_counter()
        assert sum(1 for _ in answers) == count - 1
        return (count - 1) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for model, pictures and results")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = export_onnx(build_network(NETWORK, weights="shapes"), options.out)
    pictures = options.out / "pictures"
    write_pictures(pictures, options.pictures)
    environment = recorded_environment()
    environment["packages"] |= {name: importlib.metadata.version(name) for name in ("ray", "pyarrow")}
    results: dict[str, Any] = {
        "environment": environment,
        "network": NETWORK,
        "pictures": options.pictures,
        "image_size": IMAGE_SIZE,
        "part_size": PART_SIZE,
        "bytes_in": sum(path.stat().st_size for path in pictures.iterdir()) / options.pictures,
        "steps": steps_ms(model, pictures),
    }
    print(results["steps"], flush=True)
    results["driver_parts_per_second"] = driver_parts_per_second(EMPTY_PARTS)
    print(f"{results['driver_parts_per_second']:.0f} empty parts a second", flush=True)
    results["commands"] = commands(options, model, pictures)
    if options.json is not None:
        write_json(options.json, results)
    columns = ("name", "seconds", "pictures_per_second", "times_one_core", "rss_mb", "pss_mb")
    cells = [
        tuple(f"{row[name]:.4g}" if name != "name" else row[name] for name in columns) for row in results["commands"]
    ]
    print(text_table(columns, cells, left=1))


if __name__ == "__main__":
    main()
