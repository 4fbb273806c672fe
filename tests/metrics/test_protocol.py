import numpy as np
import pytest

from ssd_train.boxes import iou
from ssd_train.datasets.dataset import GroundTruth, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.metrics import coco_ap, voc_ap
from ssd_train.metrics.protocol import Protocol
from ssd_train.metrics.table import METRICS
from ssd_train.spec import DetectorSpec, PostprocessSettings

SPEC = DetectorSpec(network="any", class_names=("thing",), input_size=(300, 300))


def truth_of(*boxes: tuple[float, ...]) -> GroundTruth:
    return make_ground_truth(
        [{"box": box, "label": 0, "is_difficult": False, "is_crowd": False, "area": 1.0} for box in boxes]
    )


def found_of(*boxes: tuple[float, ...], scores: tuple[float, ...] | None = None) -> Detections:
    scores = scores or (0.5,) * len(boxes)
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.zeros(len(boxes), np.int64))


def test_standard_leaves_the_objects_and_clips_the_detections() -> None:
    truth = truth_of((-1, 0, 50, 120))
    same, found = voc_ap.in_protocol(
        Protocol.STANDARD, truth, found_of((-5, -5, 45, 120)), image_size=(100, 40), input_size=(300, 300)
    )
    assert same is truth
    assert found.boxes.tolist() == [[0, 0, 40, 100]]
    assert coco_ap.in_protocol(
        Protocol.STANDARD, found_of((-5, -5, 45, 120), scores=(0.01,)), image_size=(100, 40)
    ).boxes.tolist() == [[0, 0, 40, 100]]


def test_gluoncv_scores_voc_in_network_pixels_with_one_added() -> None:
    # An image of width 600 and height 150 for an input of 300x300: x halves, y doubles.
    # XML numbers 11, 21, 101, 61: minus 1 is 10, 20, 100, 60; scaled 5, 40, 50, 120; one added 5, 40, 51, 121.
    truth, found = voc_ap.in_protocol(
        Protocol.GLUONCV,
        truth_of((10, 20, 101, 61)),
        found_of((10, 20, 100, 60), (-9, 140, 700, 200)),
        image_size=(150, 600),
        input_size=(300, 300),
    )
    assert truth.boxes.tolist() == [[5, 40, 51, 121]]
    assert found.boxes.tolist() == [[5, 40, 51, 121], [0, 280, 301, 301]]


def test_golden_overlap_with_one_added_is_exactly_one_half() -> None:
    # Golden vector 10, from GluonCV: detection 0, 0, 9, 9 and object 0, 0, 9, 4 in network pixels. Our
    # continuous object box ends one further.
    truth, found = voc_ap.in_protocol(
        Protocol.GLUONCV,
        truth_of((0, 0, 10, 5)),
        found_of((0, 0, 9, 9)),
        image_size=(300, 300),
        input_size=(300, 300),
    )
    assert iou(found.boxes, truth.boxes).tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("box", "is_kept"),
    # Boxes as read, in a 40x30 image; GluonCV sees x2 and y2 one lower.
    [
        ((0, 0, 40, 30), True),
        ((0, 0, 41, 31), True),
        ((0, 0, 42, 30), False),
        ((0, 0, 40, 32), False),
        ((-1, 0, 40, 30), False),
        ((0, -1, 40, 30), False),
        ((5, 5, 6, 9), False),
        ((5, 5, 7, 9), True),
        ((39, 0, 41, 9), True),
        ((40, 0, 42, 9), False),
    ],
)
def test_gluoncv_skips_objects_that_break_its_bounds(box: tuple[float, ...], is_kept: bool) -> None:
    truth, _ = voc_ap.in_protocol(
        Protocol.GLUONCV, truth_of(box), Detections.empty(), image_size=(30, 40), input_size=(300, 300)
    )
    assert len(truth) == is_kept


def test_gluoncv_drops_low_scores_for_coco_and_widens_boxes_after_clipping() -> None:
    below = float(np.nextafter(np.float32(0.05), np.float32(0)))
    found = coco_ap.in_protocol(
        Protocol.GLUONCV,
        found_of((10, 10, 20, 30), (-5, 2, 99, 9), (1, 1, 2, 2), scores=(0.9, 0.05, below)),
        image_size=(40, 50),
    )
    assert found.boxes.tolist() == [[10, 10, 21, 31], [0, 2, 51, 10]]
    assert found.scores.tolist() == [np.float32(0.9), np.float32(0.05)]


def test_inputs_are_not_changed() -> None:
    truth, found = truth_of((1, 1, 9, 9)), found_of((-5, 0, 99, 9))
    voc_ap.in_protocol(Protocol.GLUONCV, truth, found, image_size=(40, 50), input_size=(300, 300))
    coco_ap.in_protocol(Protocol.GLUONCV, found, image_size=(40, 50))
    assert truth.boxes.tolist() == [[1, 1, 9, 9]]
    assert found.boxes.tolist() == [[-5, 0, 99, 9]]


@pytest.mark.parametrize("protocol", list(Protocol))
@pytest.mark.parametrize("metric", ["voc", "coco"])
def test_the_description_names_rules_threshold_coordinates_and_special_objects(protocol: Protocol, metric: str) -> None:
    spec = DetectorSpec(
        network="any",
        class_names=("thing",),
        input_size=(300, 512),
        postprocess=PostprocessSettings(score_threshold=0.02),
    )
    text = METRICS[metric].describe(protocol, spec)
    assert "\n" not in text
    for word in (f"protocol {protocol}", "above 0.02", "difficult", "crowd", "clipped", "pixels"):
        assert word in text
    assert ("at least 0.05" in text) == (protocol is Protocol.GLUONCV and metric == "coco")
    assert ("512x300" in text) == (protocol is Protocol.GLUONCV and metric == "voc")
    assert ("later image first" in text) == (protocol is Protocol.GLUONCV and metric == "voc")
