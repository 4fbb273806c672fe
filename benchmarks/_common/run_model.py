"""Load an exported file, run it, and print milliseconds an image and this process's peak memory: JSON on one line.

    python benchmarks/_common/run_model.py MODEL [--batch 1] [--calls 5] [--threads 0] [--images FILE.npy]

A process of its own, so that the peak is that of loading and running one model and of nothing else.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner


def peak_mb(process: str = "self") -> float:
    """Return a process's highest resident memory so far in MB (Linux).

    Not from getrusage: that peak begins with the memory of the process that started this one.
    """
    with open(f"/proc/{process}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def run_model(model: Path, *arguments: str) -> dict[str, Any]:
    """Run this script and return what it printed."""
    command = [sys.executable, __file__, str(model), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--calls", type=int, default=5, help="timed, after one that is not")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves ONNX Runtime its default")
    parser.add_argument("--images", type=Path, help="network input to run; noise without it")
    options = parser.parse_args()
    runner = OnnxRuntimeRunner(options.model, threads=options.threads)
    if options.images is None:
        shape = (options.batch, 3, *runner.spec.input_size)
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    else:
        images = np.load(options.images)
    times = []
    for _ in range(1 + options.calls):
        start = time.perf_counter()
        runner.run(images)
        times.append((time.perf_counter() - start) * 1e3 / len(images))
    print(json.dumps({"ms_per_image": statistics.median(times[1:]), "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
