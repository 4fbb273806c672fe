"""Does a torchvision SSD detect here what it detects in torchvision? Prints a Markdown table.

    python benchmarks/torchvision_parity.py --checkpoint model.pth --classes classes.txt --json OUT.json \
        (--data BCCD --split test | --pictures FOLDER) [--top-k 400,1000]

torchvision's own detector (its resizing, anchors, decoding and NMS) takes the pictures as they are; this project's
takes them through its own preprocessing, in PyTorch and, exported with decode and NMS inside, in ONNX Runtime. Both
have the same checkpoint and score threshold, and are scored by the same code. Agreement takes the detections of one
side for ground truth.

torchvision lets the best candidates of each class into NMS, 400 or 300 a class (`topk_candidates`); this project the
best of all classes together. So each number of --top-k has rows, beside torchvision as it comes and beside torchvision
with all its candidates.
"""

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait by spinning slow everything beside them

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn
from torchvision.models import detection

from _common.turns import recorded_environment
from export.onnx import export_onnx
from ssd_deploy.backends import BACKENDS, RunOptions, open_model
from ssd_deploy.parity.compare import images_as_dataset
from ssd_deploy.parity.pairs import match_detections
from ssd_train.class_list import read_class_list
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.source import find_source
from ssd_train.detections import Detections
from ssd_train.evaluation.evaluate import score
from ssd_train.evaluation.loop import run_detector
from ssd_train.files import write_json
from ssd_train.metrics.agreement import agreement_ap
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.ssd import SSD
from ssd_train.preprocess import preprocess
from ssd_train.weights.description import network_of
from ssd_train.weights.network_file import read_network

# Detections are pairs from there on, and of this score they are counted.
PAIR_IOU, COUNTED_SCORE = 0.9, 0.1

# Detections of less are no use to anyone, but COCO's AP counts them.
USEFUL_SCORE = 0.05

# Raw predictions are compared on this many pictures.
RAW_PICTURES = 16


def torchvisions_detector(checkpoint: Path, name: str, num_classes: int) -> nn.Module:
    """Return torchvision's own detector with a checkpoint of its references/detection or a state dict."""
    # Only what the script of this folder or torchvision wrote is loaded without more care.
    loaded = torch.load(checkpoint, weights_only=True)
    tail = {"weights_backbone": None}
    if name.endswith("_full_tail"):
        detector: nn.Module = full_tail(num_classes)
    else:
        detector = getattr(detection, name)(weights=None, num_classes=num_classes + 1, **tail)
    detector.load_state_dict(loaded.get("model", loaded))
    return detector.eval()


def full_tail(num_classes: int) -> nn.Module:
    """Return SSDlite with the tail that torchvision gives it beside ImageNet weights, without fetching those."""
    import torchvision.models.detection.ssdlite as module

    original = module.mobilenet_v3_large
    module.mobilenet_v3_large = lambda **options: original(**options | {"reduced_tail": False})
    try:
        return module.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes + 1)
    finally:
        module.mobilenet_v3_large = original


@torch.inference_mode()
def detections_of_torchvision(detector: nn.Module, dataset: Dataset) -> list[Detections]:
    """Detect in every picture, one a call; boxes come back in pixels of the picture."""
    found = []
    for sample in dataset.samples:
        picture = torch.from_numpy(sample.load_image()).permute(2, 0, 1).float().div(255)
        (of_picture,) = detector([picture])
        labels = of_picture["labels"].numpy().astype(np.int64) - 1
        found.append(
            Detections(
                of_picture["boxes"].numpy(),
                of_picture["scores"].numpy(),
                labels,
                dataset.class_names,
                sample.image_size,
            )
        )
    return found


@torch.inference_mode()
def raw_differences(detector: nn.Module, network: SSD, dataset: Dataset) -> dict[str, float]:
    """Return the largest difference of inputs, and of logits and offsets in shares of their standard deviation."""
    worst = {"input": 0.0, "logits": 0.0, "offsets": 0.0}
    for sample in dataset.samples[:RAW_PICTURES]:
        image = sample.load_image()
        theirs = detector.transform([torch.from_numpy(image).permute(2, 0, 1).float().div(255)])[0].tensors
        ours = torch.from_numpy(preprocess(image, network.spec))[None]
        heads = detector.head(list(detector.backbone(theirs).values()))
        logits, offsets = network(ours)
        for name, one, other in (
            ("logits", logits, heads["cls_logits"]),
            ("offsets", offsets, heads["bbox_regression"]),
        ):
            worst[name] = max(worst[name], float((one - other).abs().max() / other.std()))
        worst["input"] = max(worst["input"], float((ours - theirs).abs().max()))
    return worst


def pairs(reference: Sequence[Detections], candidate: Sequence[Detections]) -> dict[str, float]:
    """Pair what scores enough on either side, and measure the pairs; boxes in pixels of the picture."""
    matched = alone = 0
    score_difference = box_difference = 0.0
    for ours, theirs in zip(reference, candidate, strict=True):
        indices = match_detections(ours, theirs, PAIR_IOU)
        counts = np.maximum(ours.scores[indices[:, 0]], theirs.scores[indices[:, 1]]) >= COUNTED_SCORE
        indices = indices[counts]
        matched += len(indices)
        for side, taken in ((ours, indices[:, 0]), (theirs, indices[:, 1])):
            alone += int((np.delete(side.scores, taken) >= COUNTED_SCORE).sum())
        if len(indices):
            apart = np.abs(ours.scores[indices[:, 0]] - theirs.scores[indices[:, 1]]).max()
            moved = np.abs(ours.boxes[indices[:, 0]] - theirs.boxes[indices[:, 1]]).max()
            score_difference = max(score_difference, float(apart))
            box_difference = max(box_difference, float(moved))
    return {"pairs": matched, "alone": alone, "score_difference": score_difference, "box_difference": box_difference}


def headline(dataset: Dataset, found: Sequence[Detections], network: SSD, metric: str | None) -> float | None:
    if metric is None:
        return None
    return score(dataset, found, network.spec, metric=metric, protocol=Protocol.STANDARD).headline


def useful(found: Sequence[Detections]) -> list[Detections]:
    return [of_picture.select(of_picture.scores >= USEFUL_SCORE) for of_picture in found]


def compare(options: argparse.Namespace) -> dict[str, Any]:
    class_names = read_class_list(options.classes)
    name = network_of(options.checkpoint)
    network = read_network(name, options.checkpoint, class_names)
    if options.pictures is None:
        dataset = find_source(options.data).load(options.split, class_names).limited(options.limit)
    else:
        dataset = images_as_dataset(sorted(options.pictures.iterdir())[: options.limit], class_names)
    metric = options.metric if options.pictures is None else None
    detector = torchvisions_detector(options.checkpoint, name, len(class_names))
    # By what each is told a class; all of them are there.
    as_it_comes = int(detector.topk_candidates)  # type: ignore[arg-type]
    references = {}
    for candidates in (as_it_comes, network.config.num_anchors):
        detector.topk_candidates = candidates  # type: ignore[assignment]
        references[candidates] = detections_of_torchvision(detector, dataset)
    expected = {candidates: headline(dataset, found, network, metric) for candidates, found in references.items()}
    sizes = [sample.image_size for sample in dataset.samples]
    rows = []
    for top_k in options.top_k:
        settings = dataclasses.replace(network.spec.postprocess, pre_nms_top_k=top_k)
        with tempfile.TemporaryDirectory() as folder:
            exported = export_onnx(network, Path(folder), settings=settings)
            runners = (
                open_model(BACKENDS["torch"], network, RunOptions(settings=settings)),
                open_model(BACKENDS["onnxruntime"], exported, RunOptions()),
            )
            for runner in runners:
                found = run_detector(dataset.samples, runner.run, runner.spec, batch_size=1, workers=1)
                runner.close()
                scored = headline(dataset, found, network, metric)
                for candidates, reference in references.items():
                    rows.append(
                        {
                            "backend": runner.name,
                            "top_k": top_k,
                            "torchvision_candidates_a_class": candidates,
                            "metric": scored,
                            "torchvision_metric": expected[candidates],
                            "agreement": agreement_ap(reference, found, sizes, len(class_names)),
                            "agreement_of_useful": agreement_ap(
                                useful(reference), useful(found), sizes, len(class_names)
                            ),
                            **pairs(reference, found),
                        }
                    )
                    print(rows[-1], flush=True)
    return {
        "network": name,
        "data": (options.pictures or options.data).name,
        "pictures": len(dataset.samples),
        "metric_name": metric,
        "useful_score": USEFUL_SCORE,
        "counted_score": COUNTED_SCORE,
        "raw": raw_differences(detector, network, dataset),
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """Return a comparison as a Markdown table."""
    lines = [
        f"{result['network']} on {result['pictures']} pictures of {result['data']}:",
        "",
        f"| here | torchvision's candidates a class | {result['metric_name'] or 'metric'} here | in torchvision "
        f"| agreement AP | of scores from {USEFUL_SCORE} | pairs | alone | scores differ by | boxes, pixels |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['backend']}, {row['top_k']} candidates | {row['torchvision_candidates_a_class']} "
            f"| {_percent(row['metric'])} | {_percent(row['torchvision_metric'])} | {row['agreement']:.5f} "
            f"| {row['agreement_of_useful']:.5f} | {row['pairs']} | {row['alone']} "
            f"| {row['score_difference']:.1e} | {row['box_difference']:.1e} |"
        )
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True, help="a name a line")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--data", type=Path, help="a data set that ssd-deploy reads, to score both sides on")
    images.add_argument("--pictures", type=Path, help="a folder of pictures, to compare both sides on")
    parser.add_argument("--split", help="of the data set; its usual one without it")
    parser.add_argument("--metric", default="voc")
    parser.add_argument("--top-k", type=lambda text: [int(part) for part in text.split(",")], default=[400, 1000])
    parser.add_argument("--limit", type=int, help="first pictures only, to try the script out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    environment = recorded_environment()
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    result = compare(options)
    print(table(result))
    print({name: f"{value:.1e}" for name, value in result["raw"].items()})
    if options.json is not None:
        write_json(options.json, {"environment": environment, "versions": versions, **result})


if __name__ == "__main__":
    main()
