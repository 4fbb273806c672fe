"""The table that `ssd-deploy models` prints."""

import dataclasses
import importlib.util
from pathlib import Path

from ssd_deploy.text_table import text_table, wrapped
from ssd_train.networks.zoo import COCO_CLASSES, NETWORKS, NetworkConfig
from ssd_train.weights.store import cached_weights

HEADER = (
    "network", "input", "classes", "parameters", "anchors", "GFLOPs", "VOC07 mAP", "COCO AP/AP50/AP75", "weights",
)  # fmt: skip


def network_table(root: Path, *, width: int | None = None) -> str:
    """Describe every network.

    Args:
        root: the folder that fetched weights are looked for in.
        width: most characters a line; None for no limit.
    """
    notes = [
        "VOC07 mAP and COCO AP are what GluonCV published for its weights. Custom networks take any class list; "
        f"theirs is counted with {len(COCO_CLASSES)} classes. GFLOPs count a multiply-add as two.",
    ]
    if importlib.util.find_spec("torch") is None:
        notes.append("Parameters and GFLOPs are counted by PyTorch, which is not installed.")
    table = text_table(HEADER, [_row(config, root) for config in NETWORKS.values()], width=width)
    return "\n".join([table, "", *wrapped(notes, width)])


def _row(config: NetworkConfig, root: Path) -> tuple[str, ...]:
    parameters, gflops = _complexity(config)
    voc = "-" if config.published_voc07 is None else f"{config.published_voc07:.1f}"
    coco = "-" if config.published_coco is None else "/".join(f"{value:.1f}" for value in config.published_coco)
    published = "-" if config.params_sha1 is None else "published"
    weights = "cached" if cached_weights(config, root) else published
    classes = str(len(config.class_names)) if config.class_names else "any"
    side = str(config.input_size)
    return config.name, side, classes, parameters, str(config.num_anchors), gflops, voc, coco, weights


def _complexity(config: NetworkConfig) -> tuple[str, str]:
    if importlib.util.find_spec("torch") is None:
        return "-", "-"
    from ssd_train.networks.complexity import measure

    counted = measure(dataclasses.replace(config, class_names=config.class_names or COCO_CLASSES))
    return f"{counted.parameters / 1e6:.2f} M", f"{counted.gflops:.2f}"
