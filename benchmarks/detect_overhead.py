"""How much longer does `detect` take than its network alone, with reading, pre-processing, drawing and writing?

    python benchmarks/detect_overhead.py MODEL SOURCE... [--rounds 5] [--threshold 0.5] [--json OUT.json]

Both in turns, in one process, so that what else the machine does falls on both: all frames through `detect` with the
results that are usual of the source, then as many through the network alone, which gets one batch of the source's own
pictures over and over. CPU milliseconds are those of all threads together.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

from _common.turns import recorded_environment
from ssd_deploy import load_detector
from ssd_deploy.detect_options import Thresholds
from ssd_deploy.detecting import detect_sources
from ssd_deploy.detector import Detector
from ssd_deploy.sources.open import open_sources
from ssd_train.files import write_json
from ssd_train.preprocess import preprocess

Seconds = tuple[float, float]


def now() -> Seconds:
    """Return seconds of the clock and of the processor."""
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> np.ndarray:
    return np.array(now()) - start


def first_batch(detector: Detector, words: list[str]) -> np.ndarray:
    source = open_sources(words)[0]
    with source:
        frames = itertools.islice(source.frames(), detector.batch_size)
        return np.stack([preprocess(source.load(frame), detector.spec) for frame in frames])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environment = recorded_environment()
    detector = load_detector(options.model)
    kept = Thresholds(score_threshold=options.threshold).keeping(detector.spec)
    batch = first_batch(detector, options.sources)
    detector.runner.run(batch)
    frames = found = frames_alone = 0
    whole, alone = np.zeros(2), np.zeros(2)
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as out:
            start = now()
            result = detect_sources(detector, open_sources(options.sources), Path(out), kept=kept)
            whole += since(start)
        in_round = sum(source.frames for source in result.sources)
        found += sum(source.detections for source in result.sources)
        frames += in_round
        for _ in range(max(1, in_round // len(batch))):
            start = now()
            detector.runner.run(batch)
            alone += since(start)
            frames_alone += len(batch)
    detect_ms, network_ms = 1000 * whole / frames, 1000 * alone / frames_alone
    measured = {
        "frames": frames,
        "detections_a_frame": found / frames,
        "detect_ms": detect_ms[0],
        "network_ms": network_ms[0],
        "ratio": detect_ms[0] / network_ms[0],
        "detect_cpu_ms": detect_ms[1],
        "network_cpu_ms": network_ms[1],
        "cpu_ratio": detect_ms[1] / network_ms[1],
    }
    print(", ".join(f"{key} {value:.4g}" for key, value in measured.items()))
    if options.json is not None:
        write_json(options.json, {"environment": environment, "model": options.model, **measured})


if __name__ == "__main__":
    main()
