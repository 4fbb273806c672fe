"""How a network is run beside GluonCV: backend, file, and what the way costs in accuracy and effort. And the goals."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssd_deploy.backends import open_model, parse_backend
from ssd_deploy.backends.base import Runner
from ssd_deploy.backends.row import RunOptions
from ssd_train.errors import BackendError
from ssd_train.networks.ssd import SSD

GLUONCV = "GluonCV"
# A file's name in messages; the network itself is no file.
NETWORK, FP32_FILE, WINOGRAD_FILE, INT8_FILE = "network", "fp32", "winograd", "int8"
# What a way asks of its user.
FLOAT32, HALF, CALIBRATED = "float32", "half", "calibrated"


class Way(NamedTuple):
    """One way to run a network.

    Attributes:
        label: what the table calls it.
        kind: float32 (equal to GluonCV but for rounding), half (needs no calibration), or calibrated.
        backend: as `parse_backend` reads it.
        file: which of the files it opens.
    """

    label: str
    kind: str
    backend: str
    file: str

    def open(self, models: Mapping[str, "SSD | Path"], threads: int) -> Runner:
        """Open it.

        Raises:
            BackendError: the backend does not run it here, or computes it with other units than the precision's.
            ModelError: the file cannot be loaded.
        """
        if self.file not in models:
            raise BackendError(f"there is no {self.file} file of this network")
        choice = parse_backend(self.backend)
        options = RunOptions(device=choice.device, variants=choice.variants, threads=threads)
        runner = open_model(choice.backend, models[self.file], options)
        if "emulated" in runner.name:
            runner.close()
            raise BackendError(f"this CPU has no units for {', '.join(choice.variants)}; OpenVINO only emulates them")
        return runner


FLOAT, WINOGRAD, INT8 = "ONNX Runtime fp32", "ONNX Runtime fp32 Winograd", "ONNX Runtime int8"
EAGER, CHANNELS_LAST, COMPILED = "PyTorch", "PyTorch channels-last", "PyTorch compiled"
WAYS = (
    Way(FLOAT, FLOAT32, "onnxruntime:cpu", FP32_FILE),
    Way(WINOGRAD, FLOAT32, "onnxruntime:cpu", WINOGRAD_FILE),
    Way("OpenVINO fp32", FLOAT32, "openvino", FP32_FILE),
    Way("OpenVINO fp32 Winograd", FLOAT32, "openvino", WINOGRAD_FILE),
    Way("OpenVINO bf16", HALF, "openvino:bf16", FP32_FILE),
    Way("OpenVINO fp16", HALF, "openvino:fp16", FP32_FILE),
    Way(INT8, CALIBRATED, "onnxruntime:cpu", INT8_FILE),
    Way("OpenVINO int8", CALIBRATED, "openvino", INT8_FILE),
    Way(EAGER, FLOAT32, "torch:cpu", NETWORK),
    Way(CHANNELS_LAST, FLOAT32, "torch:cpu+channels-last", NETWORK),
    Way(COMPILED, FLOAT32, "torch:cpu+compile", NETWORK),
)


class Goal(NamedTuple):
    """Times as fast as GluonCV that the median of the networks is to reach, each by its fastest way of these kinds."""

    name: str
    kinds: tuple[str, ...]
    least: float


GOALS = (
    Goal("float32 best", (FLOAT32,), 1.85),
    Goal("no calibration best", (FLOAT32, HALF), 2.6),
    Goal("int8 best", (CALIBRATED,), 5.0),
)


def best(row: Mapping[str, Any], goal: Goal) -> tuple[str, float] | None:
    """Return a network's fastest way of a goal's kinds, and how many times as fast as GluonCV it is."""
    ratios = {way.label: row["times_gluoncv"].get(way.label) for way in WAYS if way.kind in goal.kinds}
    measured = [(ratio, label) for label, ratio in ratios.items() if ratio is not None]
    return max(measured)[::-1] if measured else None


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians over the networks, by goal and by way; a way counts where it was measured."""
    goals = {}
    for goal in GOALS:
        found = {row["network"]: best(row, goal) for row in rows}
        ratios = [each[1] for each in found.values() if each is not None]
        median = statistics.median(ratios) if ratios else None
        goals[goal.name] = {
            "goal": goal.least,
            "median_times_gluoncv": median,
            "networks": len(ratios),
            "is_met": median is not None and median >= goal.least,
            "ways": {network: each[0] for network, each in found.items() if each is not None},
        }
    ways = {}
    for way in WAYS:
        ratios = [row["times_gluoncv"][way.label] for row in rows if way.label in row["times_gluoncv"]]
        if ratios:
            ways[way.label] = {"median_times_gluoncv": statistics.median(ratios), "networks": len(ratios)}
    return {"goals": goals, "ways": ways}
