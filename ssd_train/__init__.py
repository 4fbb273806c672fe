"""Networks, weights and training of SSD detectors, and the evaluation that every backend shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_train.telemetry import keep_quiet

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD
    from ssd_train.weights.description import BatchNorm

__all__ = ["build_network"]

# Before anything that would report home is imported.
keep_quiet()


def build_network(
    name: str,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    *,
    batch_norm: BatchNorm = "auto",
) -> SSD:
    """Build an SSD network.

    Args:
        name: a network that `ssd-deploy models` lists, for example `ssd_512_resnet50_v1_coco`.
        weights: None for fresh initial weights; `"random"` or `"random:SEED"` for seeded ones with
            scores like a trained detector's; `"shapes"` for the trained detector that comes with the package
            (`ssd_300_mobilenet0.25_custom`); `"published"` for what its project published, downloaded where it is not
            here yet; a training's folder for its best weights; else a file: MXNet `.params` in either naming scheme, a
            checkpoint of pytorch-cv or of torchvision, or this project's `.safetensors`, `.pth` or training checkpoint,
            told apart by content.
        classes: class names, for the `_custom` networks; where it is None, a file of this project
            brings its own list.
        batch_norm: of a pytorch-cv checkpoint, how the batch norms of the added levels compute: `"gluoncv"`
            (scales of 1, epsilon 1e-3) or with the file's `"own"` scales and epsilon 1e-5; `"auto"` takes
            GluonCV's where all scales lie within 1e-3 of 1, since the file was converted then, and not trained.

    Returns:
        The network in evaluation mode on the CPU. Called on (N, 3, S, S) float32 it returns logits
        (N, A, C + 1) and offsets (N, A, 4); `.anchors` is (A, 4) cx, cy, w, h in input pixels and
        `.spec` the description that travels with an exported model.

    Raises:
        BackendError: torch is not installed.
        NetworkError: no such network, or a class list that does not belong to it.
        WeightsError: the file cannot be read or does not fit.
    """
    from ssd_train.weights.load import load_network

    return load_network(name, weights, classes, batch_norm=batch_norm)
