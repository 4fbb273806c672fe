"""How long do chains of suppressed boxes get, and do the rounds of suppression follow the longest one?

    python benchmarks/suppression_chains.py [--json OUT.json] [--networks NAME=WEIGHTS,...] [--pictures 30]

A box that is suppressed suppresses nothing itself, so its fate may hang on a chain of others. Photographs of COCO and
of blood cells and generated pictures go through the detector of shapes, which is trained, and through networks with
random weights, whose candidates lie anywhere. Of every picture all candidates are looked at, those below the score
threshold too, at several IoU thresholds, and rounds are counted until nothing changes: a chain is one box longer.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _common.turns import recorded_environment, test_data
from ssd_train import build_network
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.files import write_json
from ssd_train.image_files import images_in
from ssd_train.networks.postprocess import SUPPRESSION_ROUNDS, decode, pairwise_iou, select_candidates, take_rows
from ssd_train.networks.ssd import SSD
from ssd_train.preprocess import load_image, preprocess

DEFAULT_NETWORKS = (
    "ssd_300_mobilenet0.25_custom=shapes,ssd_300_mobilenet0.25_voc=random,ssd_512_mobilenet1.0_coco=random,"
    "ssd_300_vgg16_atrous_voc=random"
)
# GluonCV's, stricter and looser: more boxes overlap above a low threshold, and fewer follow each other.
IOU_THRESHOLDS = (0.3, 0.45, 0.6)


def rounds_until_settled(suppresses: Tensor) -> int:
    """Count the rounds after which nothing changes; (K, K) bool, the column's candidate suppresses the row's."""
    standing = torch.ones(len(suppresses), dtype=torch.bool)
    for count in range(len(suppresses) + 1):
        settled = ~(suppresses & standing).any(dim=1)
        if torch.equal(settled, standing):
            return count
        standing = settled
    raise AssertionError("each round settles at least one candidate")


def longest_chains(network: SSD, image: Tensor) -> dict[str, int]:
    """Return the boxes of the longest chain in a picture at each IoU threshold; 1 where none suppresses another."""
    cls_logits, box_offsets = network(image)
    _, labels, index = select_candidates(cls_logits, network.spec.postprocess.pre_nms_top_k)
    boxes = take_rows(decode(box_offsets, network.anchors), index)
    rivals = (labels == labels.transpose(1, 2))[0].tril(-1)
    overlaps = pairwise_iou(boxes)[0]
    return {f"{threshold:g}": 1 + rounds_until_settled(rivals & (overlaps > threshold)) for threshold in IOU_THRESHOLDS}


def pictures(folder: Path, count: int) -> Iterator[tuple[str, list[Path]]]:
    """Yield every set of pictures that is here, at most so many of each."""
    shared = test_data()
    write_shapes(folder, train=1, val=count, seed=0)
    for name, place in (
        ("COCO", shared / "coco_tiny" / "val2017"),
        ("blood cells", shared / "bccd" / "JPEGImages"),
        ("shapes", folder / "JPEGImages"),
    ):
        if place.is_dir():
            yield name, images_in(place)[:count]


def summary(lengths: list[int]) -> dict[str, float]:
    return {"longest": max(lengths), "median": float(np.median(lengths)), "p99": float(np.percentile(lengths, 99))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=DEFAULT_NETWORKS)
    parser.add_argument("--pictures", type=int, default=30, help="of each set")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bound = SUPPRESSION_ROUNDS + 1
    results: dict[str, Any] = {"environment": recorded_environment(), "exact_up_to": bound, "rows": []}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        sets = list(pictures(Path(folder) / "shapes", options.pictures))
        for entry in options.networks.split(","):
            name, weights = entry.split("=")
            network = build_network(name, weights=weights).eval()
            for pictured, paths in sets:
                found: dict[str, list[int]] = {}
                for path in paths:
                    image = torch.from_numpy(preprocess(load_image(path), network.spec)[None])
                    for threshold, length in longest_chains(network, image).items():
                        found.setdefault(threshold, []).append(length)
                chains = {threshold: summary(lengths) for threshold, lengths in found.items()}
                row = {"network": name, "weights": weights, "pictures": pictured, "count": len(paths), "chains": chains}
                results["rows"].append(row)
                longest = ", ".join(f"{each['longest']} at IoU {threshold}" for threshold, each in chains.items())
                print(f"{name}, {weights}, {len(paths)} pictures of {pictured}: longest chain {longest}", flush=True)
                if options.json:
                    write_json(options.json, results)
    overall = max(each["longest"] for row in results["rows"] for each in row["chains"].values())
    print(f"longest of all {overall}; suppression is exact up to {bound}", flush=True)


if __name__ == "__main__":
    main()
