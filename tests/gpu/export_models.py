"""Export the models of the tests on a GPU ahead of them, several at a time: PyTorch's exporter uses one core.

python tests/gpu/export_models.py FOLDER [NETWORK...]
"""

import concurrent.futures
import multiprocessing
import os
import sys
import time
from pathlib import Path

from gpu_parts import NETWORKS, PRECISIONS, SMALL, export_model

# One of these takes about so many GB of memory at its peak, and gains little from more cores.
CORES_EACH = 2


def export_timed(name: str, precision: str, folder: Path) -> str:
    """Export one model; returns a line about it."""
    import torch

    torch.set_num_threads(CORES_EACH)
    start = time.perf_counter()
    path = export_model(name, precision, folder)
    return f"{path.name}: {path.stat().st_size / 1e6:.0f} MB in {time.perf_counter() - start:.1f} s"


def main() -> None:
    folder = Path(sys.argv[1])
    jobs = [(name, precision) for name in sys.argv[2:] or (SMALL, *NETWORKS) for precision in PRECISIONS]
    workers = max(1, (os.cpu_count() or 1) // CORES_EACH)
    failed = 0
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        exports = [pool.submit(export_timed, name, precision, folder) for name, precision in jobs]
        for job, export in zip(jobs, exports, strict=True):
            try:
                print(export.result(), flush=True)
            except Exception as error:  # one that fails must not keep the others from being made
                failed += 1
                print(f"{'.'.join(job)}: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
