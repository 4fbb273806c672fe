"""The table that `ssd-deploy models` prints."""

import dataclasses
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_deploy.text_table import text_table, wrapped
from ssd_train.networks.any_size import LEAST_SIDE, MOST_SIDE, SIDE_STEP
from ssd_train.networks.config import NetworkConfig, size_name
from ssd_train.networks.zoo import COCO_CLASSES, NETWORKS
from ssd_train.weights.store import converted_path

logger = logging.getLogger(__name__)

HEADER = (
    "network", "input", "classes", "parameters", "anchors", "GFLOPs", "VOC07 mAP", "COCO AP/AP50/AP75", "weights",
)  # fmt: skip


def describe_networks(root: Path) -> list[dict[str, Any]]:
    """Describe every network, as plain values.

    Args:
        root: the folder that fetched weights are looked for in.
    """
    logger.info("counting %d networks", len(NETWORKS))
    return [_describe(config, root) for config in NETWORKS.values()]


def _describe(config: NetworkConfig, root: Path) -> dict[str, Any]:
    parameters, gflops = _complexity(config)
    is_cached = converted_path(config, root).is_file()
    return {
        "network": config.name,
        "input_size": list(config.input_size),
        "classes": len(config.class_names) or None,
        "parameters": parameters,
        "anchors": config.num_anchors,
        "gflops": gflops,
        "published_voc07": config.published_voc07,
        "published_coco": config.published_coco,
        "weights": "cached" if is_cached else "published" if config.params_sha1 or config.checkpoint_url else None,
    }


def network_table(networks: Sequence[dict[str, Any]], *, width: int | None = None) -> str:
    """Return what `describe_networks` found as text; `width` is the most characters a line, None without a limit."""
    notes = [
        "VOC07 mAP and COCO AP are what GluonCV published for its weights. Custom networks take any class list; "
        f"theirs is counted with {len(COCO_CLASSES)} classes. GFLOPs count a multiply-add as two.",
        "The last ones are torchvision's and pytorch-ssd's: they take any class list, and their project's without one.",
        "Other backbones have more inputs: ssd_<side>_<backbone>_custom and ssd_<width>x<height>_<backbone>_custom, "
        f"such as ssd_640x384_resnet50_v1_custom; sides are multiples of {SIDE_STEP} from {LEAST_SIDE} to {MOST_SIDE}.",
    ]
    if importlib.util.find_spec("torch") is None:
        notes.append("Parameters and GFLOPs are counted by PyTorch, which is not installed.")
    table = text_table(HEADER, [_row(network) for network in networks], width=width)
    return "\n".join([table, "", *wrapped(notes, width)])


def _row(network: dict[str, Any]) -> tuple[str, ...]:
    parameters, gflops, coco = network["parameters"], network["gflops"], network["published_coco"]
    return (
        network["network"],
        size_name(tuple(network["input_size"])),
        str(network["classes"] or "any"),
        "-" if parameters is None else f"{parameters / 1e6:.2f} M",
        str(network["anchors"]),
        "-" if gflops is None else f"{gflops:.2f}",
        "-" if network["published_voc07"] is None else f"{network['published_voc07']:.1f}",
        "-" if coco is None else "/".join(f"{value:.1f}" for value in coco),
        network["weights"] or "-",
    )


def _complexity(config: NetworkConfig) -> tuple[int | None, float | None]:
    if importlib.util.find_spec("torch") is None:
        return None, None
    from ssd_train.networks.complexity import measure

    counted = measure(dataclasses.replace(config, class_names=config.class_names or COCO_CLASSES))
    return counted.parameters, counted.gflops
