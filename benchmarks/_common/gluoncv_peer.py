"""GluonCV's detector beside this project's: asked for a turn, its detections held against ours."""

import statistics
import time
from pathlib import Path

import numpy as np

from _common.asked_process import AskedProcess
from ssd_deploy.benchmark.measure import wait_until_idle
from ssd_train.boxes import iou
from ssd_train.detections import PaddedDetections

# How long MXNet's threads look for work after a call, which shows in a process of their own.
REST_S = 0.3


class GluonCV:
    """A GluonCV detector in its own process, which answers when it is asked to run."""

    def __init__(self, network: str, params: Path, image: Path, out: Path, threads: int) -> None:
        self._process = AskedProcess("gluoncv_detector.py", {"OMP_NUM_THREADS": str(threads)})
        wanted = {"network": network, "params": str(params), "image": str(image), "out": str(out)}
        self.versions: dict[str, str] = self._process.ask(wanted)
        self.peak_mb = 0.0

    def turn(self, calls: int) -> float:
        """Return the median milliseconds of some calls, after one that is not timed, as `rested_ms` does."""
        wait_until_idle()
        answer = self._process.ask({"runs": 1 + calls})
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
