"""Which layers suffer from int8, measured: each is quantized alone, and the detections are held against float's."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import onnx

from export.graph import layer_names, open_graph
from ssd_train.datasets.dataset import image_samples
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.evaluation.loop import run_detector
from ssd_train.files import write_json, written_atomically
from ssd_train.metrics.agreement import agreement_ap
from ssd_train.spec import OUTPUT_NAMES, DetectorSpec

log = logging.getLogger(__name__)

# Layers that a chart has room for.
CHARTED = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What int8 costs, in points of agreement AP (0 to 100).

    Attributes:
        images: how many the drops were measured on.
        layer_drops: layer -> lost when it alone is quantized, the worst first.
        full_drop: lost when all layers are quantized.
        max_drop: allowed.
        float_layers: layers that stay float32 to meet that.
        drop: lost then.
    """

    images: int
    layer_drops: dict[str, float]
    full_drop: float
    max_drop: float
    float_layers: tuple[str, ...]
    drop: float

    def lines(self) -> list[str]:
        """Return the table as text."""
        width = max(map(len, self.layer_drops))
        return [
            f"{'layer':<{width}}  agreement AP lost when quantized alone, points",
            *(
                f"{layer:<{width}}  {drop:6.2f}{'  stays float' if layer in self.float_layers else ''}"
                for layer, drop in self.layer_drops.items()
            ),
            f"all layers int8: {self.full_drop:.2f} points lost on {self.images} images; "
            f"{len(self.float_layers)} in float: {self.drop:.2f} (allowed {self.max_drop:g})",
        ]


class Quantized(Protocol):
    """What makes an int8 graph of the float one: `quantize.quantize_graph` with its first arguments given."""

    def __call__(self, *, float_layers: Sequence[str] = (), only_layer: str | None = None) -> onnx.ModelProto: ...


def find_float_layers(
    model: onnx.ModelProto,
    spec: DetectorSpec,
    images: Sequence[Path],
    quantized: Quantized,
    *,
    max_drop: float,
    on_progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Rank the layers and choose the fewest that have to stay float, the worst first.

    Args:
        model: the exported float graph.
        images: files to measure on; every layer costs a pass over them.
        max_drop: points of agreement AP that may be lost, 0 to 100.
        on_progress: told how many layers are judged, of how many.

    Raises:
        DatasetError: the float graph detects nothing in the images.
    """
    samples = image_samples(images)
    sizes = [sample.image_size for sample in samples]
    layers = list(layer_names(model))

    def detect(graph: onnx.ModelProto) -> list[Detections]:
        run = open_graph(graph, OUTPUT_NAMES)
        return run_detector(samples, lambda images: PaddedDetections(*run(images)), spec)

    def drop_of(graph: onnx.ModelProto) -> float:
        return 100 * (1 - agreement_ap(reference, detect(graph), sizes, len(spec.class_names)))

    reference = detect(model)
    log.info("judging %d layers on %d images", len(layers), len(samples))

    ranked = drops_alone(layers, lambda layer: drop_of(quantized(only_layer=layer)), on_progress)
    full_drop = drop = drop_of(quantized())
    kept: list[str] = []
    for layer in ranked:
        if drop <= max_drop:
            break
        kept.append(layer)
        drop = drop_of(quantized(float_layers=kept)) if len(kept) < len(layers) else 0.0
    return Sensitivity(
        images=len(samples),
        layer_drops=ranked,
        full_drop=full_drop,
        max_drop=max_drop,
        float_layers=tuple(kept),
        drop=drop,
    )


def drops_alone(
    layers: Sequence[str], drop_of: Callable[[str], float], on_progress: Callable[[int, int], None] | None
) -> dict[str, float]:
    """Return layer -> lost when it alone is quantized, the worst first."""
    drops = {}
    for done, layer in enumerate(layers, start=1):
        drops[layer] = drop_of(layer)
        if on_progress is not None:
            on_progress(done, len(layers))
    return dict(sorted(drops.items(), key=lambda item: -item[1]))


def write_sensitivity(sensitivity: Sensitivity, stem: Path) -> tuple[Path, Path]:
    """Write `<stem>.sensitivity.json` and a chart of the worst layers, `<stem>.sensitivity.png`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table, chart = (stem.with_name(f"{stem.name}.sensitivity{suffix}") for suffix in (".json", ".png"))
    write_json(table, dataclasses.asdict(sensitivity))
    layers = list(sensitivity.layer_drops)[:CHARTED]
    figure = Figure(figsize=(9.0, 1.6 + 0.2 * len(layers)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colors = ["#D55E00" if layer in sensitivity.float_layers else "#0072B2" for layer in layers]
    axes.barh(layers, [sensitivity.layer_drops[layer] for layer in layers], color=colors)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("agreement AP lost when this layer alone is int8, points")
    kept = f", {len(sensitivity.float_layers)} stay float (orange)" if sensitivity.float_layers else ""
    shown = f"all {len(layers)}" if len(layers) == len(sensitivity.layer_drops) else f"{len(layers)} worst"
    axes.set_title(f"{shown} layers{kept}", fontsize=10)
    with written_atomically(chart) as temporary:
        figure.savefig(temporary, format="png")
    return table, chart
