"""What does it cost that DeepStream resizes frames otherwise than in training?

    python benchmarks/nvinfer_resize.py [--json OUT.json] [--pictures 300] [--sides 320,480 960,1440]

GluonCV's rule takes OpenCV's cubic, area or linear filter, by how the size changes; Gst-nvinfer has one filter for all
frames (`scaling-filter`): the nearest pixel by default; bilinear, as a bundle of `ssd-deploy bundle deepstream` asks;
cubic; or "super", which averages as the area filter does. OpenCV's filters of these kinds stand for them, on a CPU. The
detector of shapes is scored on generated pictures of two sizes: about its input's, and those of video frames.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import cv2

from _common.turns import recorded_environment
from export.onnx import export_onnx
from ssd_deploy import load_detector
from ssd_train import build_network, preprocess
from ssd_train.datasets import generated
from ssd_train.datasets.generated import SHAPE_CLASSES
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.source import find_source
from ssd_train.evaluation.evaluate import score
from ssd_train.evaluation.loop import run_detector
from ssd_train.files import write_json
from ssd_train.metrics.agreement import agreement_ap
from ssd_train.metrics.protocol import Protocol

NETWORK = "ssd_300_mobilenet0.25_custom"
FILTERS = {
    "bilinear": cv2.INTER_LINEAR,
    "super (area)": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300, help="of each size")
    parser.add_argument("--sides", nargs="+", default=["320,480", "960,1440"], help="least and most pixels of a side")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {"environment": recorded_environment(), "network": NETWORK, "rows": []}
    rule = preprocess.interpolation_for
    with tempfile.TemporaryDirectory() as folder:
        detector = load_detector(export_onnx(build_network(NETWORK, "shapes"), Path(folder)))
        for sides in options.sides:
            least, most = map(int, sides.split(","))
            generated.SIDES = (least, most)
            root = write_shapes(Path(folder) / sides, train=1, val=options.pictures, seed=1)
            dataset = find_source("voc", root).load("val", sorted(SHAPE_CLASSES))
            sizes = [sample.image_size for sample in dataset.samples]
            expected = None
            for name in ("GluonCV's rule", *FILTERS):
                preprocess.interpolation_for = (lambda *_, code=FILTERS[name]: code) if name in FILTERS else rule
                found = run_detector(dataset.samples, detector.runner.run, detector.spec)
                expected = expected or found
                numbers = score(dataset, found, detector.spec, metric="coco", protocol=Protocol.STANDARD).numbers
                agreement = agreement_ap(expected, found, sizes, len(SHAPE_CLASSES))
                row = {"sides": [least, most], "filter": name, "pictures": len(sizes), "agreement_ap": agreement}
                results["rows"].append(row | {metric: numbers[metric] for metric in ("AP", "AP50")})
                points = ", ".join(f"{metric} {100 * numbers[metric]:.1f}" for metric in ("AP", "AP50"))
                print(f"{least} to {most} pixels, {name}: {points}, agreement AP {agreement:.3f}", flush=True)
            if options.json:
                write_json(options.json, results)


if __name__ == "__main__":
    main()
