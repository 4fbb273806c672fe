"""How fast is a detector on a GPU, how much of the card is that, and what does post-processing cost?

    python benchmarks/gpu_inference.py [--json OUT.json] [--seconds 140] [--networks N,N] [--batch-sizes 1,8,32]

Every backend that works on the device, as it is, with each of its variants and with each pair of them, in fp16, fp32
(no TF32) and bf16. Times go from the images in the GPU's memory to the detections there, by the GPU's clock where the
backend has one, else by the host's, synchronized; the network's alone are those of the same with nothing behind it, in
turn with it. The operations of plain convolutions are compared with the rate of a large matrix product in the same
precision, measured in the same run; a library that needs fewer products for a convolution comes out higher.

What tells most comes first: batches, precisions and networks in the order in which they are named. Each number is
printed and written as soon as it is there, and measured in a process that only its own failure ends. The script
stops by itself after `--seconds` and says what it left out. Compiling takes half a minute a variant and comes last.

On a CPU, to try the script out: `--device cpu --networks ssd_300_mobilenet0.25_voc --precisions fp32 --batch-sizes 1`;
no CUDA graph there, and the host's clock.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from _common.gpu_variants import Job, all_choices, export, matrix_rate, measure
from _common.isolated import CallFailedError, IsolatedCalls
from _common.turns import recorded_environment
from ssd_deploy.backends import BACKENDS, parse_backends
from ssd_deploy.text_table import text_table
from ssd_train.errors import first_line
from ssd_train.files import write_json
from ssd_train.networks.complexity import measure as measure_complexity
from ssd_train.networks.zoo import network_config

# How long a variant may take, the start of a process for it included; a quarter has to be left for one to be begun.
LIMIT_S, SLOW_LIMIT_S = 40.0, 90.0

HEADER = ("network", "precision", "variant", "batch", "ms", "images/s", "post-processing", "share of matrix rate")


def jobs_in_order(options: argparse.Namespace) -> list[Job]:
    """Return what is to be measured, most telling first and slow variants last."""
    if options.backends == "all":
        choices = list(all_choices(iter(BACKENDS.values()), options.device))
    else:
        choices = [str(choice) for choice in parse_backends(options.backends)]
    sizes, precisions, networks = (
        value.split(",") for value in (options.batch_sizes, options.precisions, options.networks)
    )
    jobs = [
        Job(network=network, precision=precision, backend=choice, batch=int(size))
        for size, precision, network, choice in itertools.product(sizes, precisions, networks, choices)
    ]
    return sorted(jobs, key=lambda job: job.is_slow)


class Exports:
    """Files that other processes export meanwhile: PyTorch's exporter uses one core and no GPU."""

    def __init__(self, jobs: list[Job], folder: Path, pool: concurrent.futures.Executor) -> None:
        wanted = dict.fromkeys((job.network, job.precision) for job in jobs if job.needs_file)
        self._files = {key: pool.submit(export, *key, folder) for key in wanted}

    def is_ready(self, job: Job) -> bool:
        return not job.needs_file or self._files[job.network, job.precision].done()

    def are_pending(self) -> bool:
        return not all(file.done() for file in self._files.values())

    def with_file(self, job: Job, limit_s: float) -> Job:
        """Return a job with its file, where it needs one, once it is there; raise CallFailedError where it is not."""
        if not job.needs_file:
            return job
        try:
            return dataclasses.replace(job, model=self._files[job.network, job.precision].result(limit_s))
        except concurrent.futures.TimeoutError as error:
            raise CallFailedError(f"its export takes longer than {limit_s:.0f} s") from error
        except Exception as error:  # of any kind, from the exporter
            raise CallFailedError(f"cannot be exported: {first_line(error)}") from error


def measured(
    job: Job, exports: Exports, isolated: IsolatedCalls, options: argparse.Namespace, left_s: float
) -> dict[str, Any]:
    """Return what was measured; raise CallFailedError with the reason where nothing was."""
    job = exports.with_file(job, left_s)
    times: dict[str, Any] = isolated.call(measure, job, options.rounds, limit_s=left_s)
    if "refused" in times:
        raise CallFailedError(times["refused"])
    return times


def described(job: Job, times: dict[str, Any], gflops: float, rate: float | None) -> dict[str, Any]:
    images_per_second = job.batch / times["ms"] * 1e3
    alone = times.get("network_ms")
    return {
        "network": job.network,
        "precision": job.precision,
        "variant": job.backend,
        "batch": job.batch,
        **times,
        "postprocess_share": None if alone is None else 1 - alone / times["ms"],
        "images_per_second": images_per_second,
        "share_of_matrix_rate": None if rate is None else images_per_second * gflops / 1e3 / rate,
    }


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    shares = (
        "-" if share is None else f"{100 * share:.1f} %"
        for share in (row["postprocess_share"], row["share_of_matrix_rate"])
    )
    return (
        *(row["network"], row["precision"], row["variant"], str(row["batch"])),
        f"{row['ms']:.3f}",
        f"{row['images_per_second']:.1f}",
        *shares,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="ssd_512_resnet50_v1_coco,ssd_300_vgg16_atrous_voc")
    parser.add_argument("--precisions", default="fp16,fp32,bf16")
    parser.add_argument("--batch-sizes", default="1,8,32")
    parser.add_argument("--backends", default="all", help="all, or some such as torch:cuda-graph,onnxruntime:cuda")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=140.0, help="after which it stops")
    parser.add_argument("--models", type=Path, help="folder that keeps exported files")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # Imports have taken some of it.
    ends = psutil.Process().create_time() + options.seconds
    jobs = jobs_in_order(options)
    results: dict[str, Any] = {
        "environment": recorded_environment(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "matrix_tflops": {},
        "rows": [],
        "failed": {},
        "left_out": [],
    }

    def save() -> None:
        if options.json is not None:
            write_json(options.json, results)

    def failed(what: str, error: CallFailedError) -> None:
        results["failed"][what] = str(error)
        print(f"{what}: {error}", flush=True)

    spawn = multiprocessing.get_context("spawn")
    precisions, networks = options.precisions.split(","), options.networks.split(",")
    with (
        tempfile.TemporaryDirectory() as temporary,
        concurrent.futures.ProcessPoolExecutor(
            max(1, min(4, (os.cpu_count() or 1) // 2)), spawn, signal.signal, (signal.SIGINT, signal.SIG_IGN)
        ) as pool,
        IsolatedCalls() as isolated,
    ):
        exports = Exports(jobs, options.models or Path(temporary), pool)
        rates = results["matrix_tflops"]
        for precision in precisions:
            try:
                rates[precision] = isolated.call(matrix_rate, precision, options.device, limit_s=LIMIT_S)
            except CallFailedError as error:
                failed(f"matrix product in {precision}", error)
        print("matrix product, TFLOP/s: " + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items()), flush=True)
        gflops = {name: measure_complexity(network_config(name)).gflops for name in networks}
        while jobs:
            # What does not wait for its file comes first, but slow variants stay last.
            of_kind = (job for job in jobs if job.is_slow == jobs[0].is_slow)
            job = next((job for job in of_kind if exports.is_ready(job)), jobs[0])
            limit_s = SLOW_LIMIT_S if job.is_slow else LIMIT_S
            left_s = ends - time.time()
            if left_s < limit_s / 4:
                break
            jobs.remove(job)
            try:
                times = measured(job, exports, isolated, options, min(limit_s, left_s))
                row = described(job, times, gflops[job.network], rates.get(job.precision))
                results["rows"].append(row)
                print(*cells(row), sep="  ", flush=True)
            except CallFailedError as error:
                failed(job.label, error)
            save()
        results["left_out"] = [job.label for job in jobs]
        save()
        print(text_table(HEADER, [cells(row) for row in results["rows"]], left=3))
        if jobs:
            print(f"left out after {options.seconds:.0f} s: " + "; ".join(results["left_out"]), flush=True)
        pool.shutdown(wait=False, cancel_futures=True)
        # Exports that nobody waits for any more.
        for process in multiprocessing.active_children() if exports.are_pending() else ():
            process.kill()


if __name__ == "__main__":
    main()
