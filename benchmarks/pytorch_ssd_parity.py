"""Does this project compute what pytorch-ssd, which jetson-inference trains, computes with the same weights?

    python benchmarks/pytorch_ssd_parity.py --source FOLDER --data BCCD [--split test] [--limit N] [--json OUT.json] \
        [mb1-ssd=CHECKPOINT.pth] [NETWORK...]

FOLDER is a copy of github.com/qfgaohao/pytorch-ssd or of jetson-inference's fork, dusty-nv/pytorch-ssd, whose code is
run beside this project's. A network without a checkpoint gets seeded random weights, which look like a trained one's.
Compared are: the input that each side makes of a picture, anchors, raw predictions of that input, and detections: its
`Predictor` as `eval_ssd.py` runs it (the best 200 candidates of each class, no limit behind them) against ours with the
usual counts, over all classes; and both with as many candidates as there may be.
"""

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from _common.turns import recorded_environment
from ssd_deploy import load_detector
from ssd_train import build_network
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.source import find_source
from ssd_train.detections import Detections
from ssd_train.evaluation.evaluate import score
from ssd_train.evaluation.loop import run_detector
from ssd_train.files import write_json
from ssd_train.metrics.agreement import agreement_ap
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.ssd import SSD
from ssd_train.preprocess import load_image, preprocess
from ssd_train.spec import MAX_TOP_K, PostprocessSettings
from ssd_train.weights.pytorch_ssd import layer_prefixes

# Our network -> their module and the function in it.
THEIRS = {
    "mb1-ssd": ("mobilenetv1_ssd", "create_mobilenetv1_ssd"),
    "mb2-ssd-lite": ("mobilenet_v2_ssd_lite", "create_mobilenetv2_ssd_lite"),
    "vgg16-ssd": ("vgg_ssd", "create_vgg_ssd"),
}


# As many candidates and detections as a graph may have.
ALL = PostprocessSettings(
    score_threshold=0.01, nms_iou_threshold=0.45, pre_nms_top_k=MAX_TOP_K, max_detections=MAX_TOP_K
)


def random_checkpoint(name: str, class_names: Sequence[str], path: Path) -> None:
    """Write seeded random weights as pytorch-ssd would save them."""
    ours = build_network(name, weights="random:0", classes=class_names).state_dict()
    theirs = {
        theirs_prefix + tensor_name.removeprefix(prefix): tensor
        for prefix, theirs_prefix in layer_prefixes(name)
        for tensor_name, tensor in ours.items()
        if tensor_name.startswith(prefix)
    }
    torch.save(theirs, path)


def their_network(name: str, columns: int, path: Path) -> tuple[nn.Module, Any]:
    """Build pytorch-ssd's network with a checkpoint, giving raw predictions; returns it and its module."""
    module_name, create = THEIRS[name]
    module = importlib.import_module(f"vision.ssd.{module_name}")
    network = getattr(module, create)(columns)
    network.load(str(path))
    return network.eval(), module


def their_detections(
    name: str, module: Any, columns: int, path: Path, dataset: Dataset, candidates: int
) -> list[Detections]:
    """Run its predictor over a data set as its `eval_ssd.py` does, with so many candidates of each class."""
    network = getattr(module, THEIRS[name][1])(columns, is_test=True)
    network.load(str(path))
    predictor = getattr(module, f"{THEIRS[name][1]}_predictor")(network, candidates, device=torch.device("cpu"))
    found = []
    for sample in dataset.samples:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its times
            boxes, labels, scores = predictor.predict(load_image(sample.path))
        order = np.argsort(-scores.numpy(), kind="stable")
        boxes = boxes.numpy().reshape(-1, 4).astype(np.float32)
        labels = labels.numpy().astype(np.int64) - 1  # without the background
        found.append(Detections(boxes[order], scores.numpy()[order], labels[order]))
    return found


@torch.inference_mode()
def compare_raw(ours: SSD, theirs: nn.Module, module: Any, dataset: Dataset) -> dict[str, float]:
    """Return the largest differences of inputs, anchors (pixels) and raw predictions (in units of their spread)."""
    config = module.config
    # As `create_vgg_ssd_predictor` leaves its std out, whose value is 1.
    transform = importlib.import_module("vision.ssd.data_preprocessing").PredictionTransform(
        config.image_size, config.image_mean, config.image_std
    )
    anchors = (ours.anchors - config.priors * config.image_size).abs().max()
    inputs, pairs = 0.0, []
    for sample in dataset.samples:
        image = load_image(sample.path)
        their_input = transform(image)[None]
        our_input = torch.from_numpy(np.asarray(preprocess(image, ours.spec), np.float32))[None]
        inputs = max(inputs, float((their_input - our_input).abs().max()))
        pairs.append([(*theirs(their_input), *ours(our_input), *ours(their_input))])
    values = [torch.cat(each) for each in zip(*(pair[0] for pair in pairs), strict=True)]
    logits, offsets, own_logits, own_offsets, same_logits, same_offsets = values

    def spread(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().max() / one.std())

    return {
        "input": inputs,
        "anchors_px": float(anchors),
        "logits": spread(logits, own_logits),
        "offsets": spread(offsets, own_offsets),
        "logits_of_equal_input": spread(logits, same_logits),
        "offsets_of_equal_input": spread(offsets, same_offsets),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(THEIRS), metavar="NETWORK[=CHECKPOINT]")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a data set in any layout")
    parser.add_argument("--split")
    parser.add_argument("--limit", type=int, help="use the first N pictures only")
    parser.add_argument("--score-threshold", type=float, default=0.1, help="of detections whose agreement is told")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(options.source))
    source = find_source(str(options.data))
    results: dict[str, Any] = {"environment": recorded_environment(), "rows": []}
    for named in options.networks:
        name, _, checkpoint = named.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            names = source.class_names()
            path = Path(checkpoint) if checkpoint else Path(folder) / "random.pth"
            if not checkpoint:
                random_checkpoint(name, names, path)
            ours = build_network(name, weights=path, classes=None if checkpoint else names)
            dataset = source.load(options.split, ours.spec.class_names).limited(options.limit)
            columns = len(ours.spec.class_names) + 1
            theirs, module = their_network(name, columns, path)
            row: dict[str, Any] = {"network": name, "weights": "trained" if checkpoint else "random, seed 0"}
            row |= {"pictures": len(dataset.samples), **compare_raw(ours, theirs, module, dataset)}
            sizes = [sample.image_size for sample in dataset.samples]
            for limits, candidates, settings in (("usual", 200, None), ("all", len(ours.anchors), ALL)):
                detector = load_detector(name, weights=path, classes=ours.spec.class_names, settings=settings)
                sides = {
                    "theirs": their_detections(name, module, columns, path, dataset, candidates),
                    "ours": run_detector(dataset.samples, detector.runner.run, detector.spec),
                }
                for side, found in sides.items():
                    scored = score(dataset, found, ours.spec, metric="voc", protocol=Protocol.STANDARD)
                    row[f"{limits}_map_{side}"] = scored.numbers["VOC07 mAP"]
                    row[f"{limits}_detections_{side}"] = sum(map(len, found))
                    sides[side] = [each.select(each.scores >= options.score_threshold) for each in found]
                row[f"{limits}_agreement_ap"] = agreement_ap(sides["theirs"], sides["ours"], sizes, columns - 1)
        results["rows"].append(row)
        print(
            ", ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
        if options.json:
            write_json(options.json, results)


if __name__ == "__main__":
    main()
