"""One variant of a detector on a GPU: opened through the table of backends, timed whole and without post-processing."""

import contextlib
import dataclasses
import functools
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from _common.matrix_rate import matrix_tflops
from _common.turns import rested_ms
from export.graph import load_exported, network_only
from export.onnx import export_onnx
from ssd_deploy.backends import Backend, BackendChoice, open_model, parse_backend
from ssd_deploy.backends.base import DeviceTimed, Runner
from ssd_deploy.backends.row import RunOptions
from ssd_train import build_network
from ssd_train.errors import BackendError, SSDDeployError, first_line
from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.precisions import in_precision
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES

# What the operations of a precision are compared with.
MATRIX_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Takes half a minute a variant, so it comes last.
SLOW_VARIANT = "compile"
# Timed calls of a turn: as many as fit into its time, within these bounds.
TURN_MS, FEWEST_CALLS, MOST_CALLS = 100.0, 3, 20
# What every detection scores where nothing is behind the network.
SCORE = 0.5

Images = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement.

    Attributes:
        network, precision: of which table's rows.
        backend: with device and variants, as `parse_backend` reads it.
        batch: images a call.
        model: the exported file, for backends that run one.
    """

    network: str
    precision: str
    backend: str
    batch: int
    model: Path | None = None

    @property
    def label(self) -> str:
        return f"{self.network} {self.precision} {self.backend} batch {self.batch}"

    @property
    def needs_file(self) -> bool:
        return not parse_backend(self.backend).backend.runs_networks

    @property
    def is_slow(self) -> bool:
        return SLOW_VARIANT in parse_backend(self.backend).variants


def choices(row: Backend, device: str) -> list[str]:
    """Return a backend as it is, then with each of its variants, then with each pair of them that goes together."""
    subsets = itertools.chain.from_iterable(itertools.combinations(row.variants, size) for size in range(3))
    named = device if len(row.devices) > 1 else None
    found = []
    for subset in subsets:
        choice = str(BackendChoice(backend=row, device=named, variants=subset))
        with contextlib.suppress(BackendError):
            parse_backend(choice)
            found.append(choice)
    return found


def matrix_rate(precision: str, device: str) -> float:
    """Return TFLOP/s of a large matrix product, without TF32."""
    return matrix_tflops(MATRIX_TYPES[precision], torch.device(device))


def export(name: str, precision: str, folder: Path) -> Path:
    """Export a network with random weights."""
    torch.set_num_threads(2)
    return export_onnx(_network(name, precision), folder)


def measure(job: Job, rounds: int) -> dict[str, Any]:
    """Return milliseconds whole and of the network alone; or under `refused` why this backend does not run it.

    By the GPU's clock where the backend has one, from images in its memory to detections there; else by the host's.
    """
    images = np.random.default_rng(0).normal(size=(job.batch, 3, *network_config(job.network).input_size))
    images = images.astype(np.float32)
    described: dict[str, Any] = {}
    runners: dict[str, Runner] = {}
    with contextlib.ExitStack() as closing:
        try:
            runners["ms"] = _open(job)
            closing.callback(runners["ms"].close)
            calls = _warm_up(runners["ms"], images)
        except SSDDeployError as error:
            return {"refused": str(error)}
        described["runner"] = runners["ms"].name
        try:
            alone = _open_alone(job)
            closing.callback(alone.close)
            _warm_up(alone, images)
            runners["network_ms"] = alone
        except Exception as error:  # of any library; the whole can be timed all the same
            described["network_alone"] = first_line(error)
        times: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(rounds):
            for name, runner in runners.items():
                times[name] += _call_ms(runner, images, calls)
    return described | {name: statistics.median(values) for name, values in times.items()}


def _call_ms(runner: Runner, images: Images, calls: int) -> list[float]:
    if isinstance(runner, DeviceTimed) and runner.device_clock is not None:
        return runner.device_times_ms(images, calls)
    return [rested_ms(functools.partial(runner.run, images), calls)]


def _warm_up(runner: Runner, images: Images) -> int:
    """Return how many calls fill a turn, after some that let libraries choose, compile and record."""
    warm = _call_ms(runner, images, FEWEST_CALLS)[-1]
    return max(FEWEST_CALLS, min(MOST_CALLS, int(TURN_MS / warm)))


@functools.lru_cache(maxsize=2)
def _network(name: str, precision: str) -> SSD:
    return in_precision(build_network(name, weights="random"), precision)


def _open(job: Job, model: Path | None = None) -> Runner:
    choice = parse_backend(job.backend)
    source: SSD | Path | None = _network(job.network, job.precision) if choice.backend.runs_networks else None
    source = source or model or job.model
    assert source is not None
    options = RunOptions(device=choice.device, variants=choice.variants, batch_size=job.batch)
    return open_model(choice.backend, source, options)


def _open_alone(job: Job) -> Runner:
    """Open the same with nothing behind the network."""
    if job.model is not None:
        return _open(job, _bare_file(job.model))
    runner: Any = _open(job)
    runner.detector.postprocess = NoPostprocess(runner.spec.postprocess)
    return runner  # type: ignore[no-any-return]


class NoPostprocess(Postprocess):
    """Answers with the same boxes whatever the network says, in four small kernels: only for timing.

    They are detections like others, since a backend may compare the answers of two ways to run.
    """

    def forward(self, cls_logits: Tensor, box_offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = self.settings.max_detections
        ones = box_offsets[:, :count].clamp(1, 1)
        scores = cls_logits[:, :count, 0].clamp(SCORE, SCORE)
        return torch.cat((ones[..., :2] - 1, ones[..., 2:]), dim=-1), scores, scores.long()


def _bare_file(path: Path) -> Path:
    """Write an exported file with what `NoPostprocess` does in the place of decode and NMS."""
    bare = path.with_suffix(".bare.onnx")
    if bare.is_file():
        return bare
    whole = load_exported(path)
    model = network_only(whole.model)
    count = whole.spec.postprocess.max_detections
    constants = {
        **{"zero": np.int64([0]), "one": np.int64([1]), "two": np.int64([2]), "count": np.int64([count])},
        **{"nothing": np.float32(0), "unit_box": np.float32([0, 0, 1, 1]), "score": np.float32(SCORE)},
    }
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), f"bare_{name}") for name, value in constants.items()
    )
    nodes = (
        ("Slice", (RAW_NAMES[1], "bare_zero", "bare_count", "bare_one"), "bare_offsets", {}),
        ("Mul", ("bare_offsets", "bare_nothing"), "bare_zeros", {}),
        ("Add", ("bare_zeros", "bare_unit_box"), OUTPUT_NAMES[0], {}),
        ("Slice", (RAW_NAMES[0], "bare_zero", "bare_count", "bare_one"), "bare_rows", {}),
        ("Slice", ("bare_rows", "bare_zero", "bare_one", "bare_two"), "bare_column", {}),
        ("Squeeze", ("bare_column", "bare_two"), "bare_logits", {}),
        ("Clip", ("bare_logits", "bare_score", "bare_score"), OUTPUT_NAMES[1], {}),
        ("Cast", (OUTPUT_NAMES[1],), OUTPUT_NAMES[2], {"to": onnx.TensorProto.INT64}),
    )
    for operator, inputs, output, attributes in nodes:
        model.graph.node.append(onnx.helper.make_node(operator, inputs, [output], **attributes))
    outputs = {value.name: value for value in whole.model.graph.output}
    del model.graph.output[:]
    model.graph.output.extend(outputs[name] for name in OUTPUT_NAMES)
    del model.metadata_props[:]
    model.metadata_props.extend(whole.model.metadata_props)
    onnx.checker.check_model(model)
    onnx.save(model, bare)
    return bare


def all_choices(rows: Iterator[Backend], device: str) -> Iterator[str]:
    """Yield every choice of the backends that work on a device, and print why others do not."""
    for row in rows:
        if device not in row.devices:
            continue
        finding = row.probe(device)
        if finding.works:
            yield from choices(row, device)
        else:
            print(f"{row.name}: left out: {finding.detail}", flush=True)
