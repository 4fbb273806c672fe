"""Networks, decode and NMS against GluonCV's, from its weight files to its detections.

Random weights stand in for the published ones; see `gluoncv_reference.py` for how they are made to
behave like trained ones.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from oracle_reference import ReferenceCase

from export.onnx import export_onnx
from ssd_train import build_network
from ssd_train.boxes import iou
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import NETWORKS
from ssd_train.spec import PostprocessSettings

pytestmark = pytest.mark.oracle

# Largest difference as a fraction of the spread of all values. Both sides compute in float32 but sum in
# another order: 2e-5 is seen. Forgetting the bias or shift of any single layer makes 5e-3 or more.
RAW_TOLERANCE = 1e-3
ANCHOR_TOLERANCE_PX = 1e-3

BOX_TOLERANCE_PX = 0.1
SCORE_TOLERANCE = 1e-4
# Where a float32 rounding decides on which side of a threshold a value falls.
IOU_MARGIN = 1e-4
# Detections that such a rounding may explain.
MAX_UNMATCHED_FRACTION = 1 / 500


class Outputs(NamedTuple):
    """What our network makes of a case's images.

    Attributes:
        network: with the weights of the dotted file.
        cls_logits: (N, A, C + 1).
        box_offsets: (N, A, 4).
        reference: GluonCV's arrays, names and shapes as in `gluoncv_reference.py`.
    """

    network: SSD
    cls_logits: torch.Tensor
    box_offsets: torch.Tensor
    reference: dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def outputs(case: ReferenceCase) -> Outputs:
    reference = case.arrays()
    network = build_network(case.network, weights=case.dotted, classes=case.classes)
    with torch.inference_mode():
        cls_logits, box_offsets = network(torch.from_numpy(reference["x"]))
    return Outputs(network, cls_logits, box_offsets, reference)


def detect(raw: list[torch.Tensor], case: ReferenceCase) -> PaddedDetections:
    """Decode and suppress cls_logits, box_offsets and anchors under the case's settings."""
    with torch.inference_mode():
        return PaddedDetections(*(value.numpy() for value in Postprocess(settings_of(case))(*raw)))


def settings_of(case: ReferenceCase) -> PostprocessSettings:
    names = ("nms_iou_threshold", "pre_nms_top_k", "max_detections")
    return PostprocessSettings(**{name: case.entry[name] for name in names})


def test_anchors_are_gluoncv_s(outputs: Outputs) -> None:
    anchors = outputs.network.anchors.numpy()
    assert anchors.shape == outputs.reference["anchors"].shape
    np.testing.assert_allclose(anchors, outputs.reference["anchors"], rtol=0, atol=ANCHOR_TOLERANCE_PX)


def test_raw_predictions_are_gluoncv_s(outputs: Outputs) -> None:
    for name, ours in (("cls_preds", outputs.cls_logits), ("box_preds", outputs.box_offsets)):
        theirs = outputs.reference[name]
        assert ours.shape == theirs.shape
        difference = np.abs(ours.numpy() - theirs).max(axis=(0, 2)) / theirs.std()
        message = f"{name} differ by {difference.max():.1e} of their spread at anchor {difference.argmax()}"
        assert (difference <= RAW_TOLERANCE).all(), message


def test_older_names_give_the_same_tensors(legacy_case: ReferenceCase) -> None:
    states = [
        build_network(legacy_case.network, weights=path, classes=legacy_case.classes).state_dict()
        for path in (legacy_case.dotted, legacy_case.legacy)
    ]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_decode_and_nms_of_gluoncv_s_raw_predictions_give_its_detections(case: ReferenceCase, outputs: Outputs) -> None:
    raw = [torch.from_numpy(outputs.reference[name]) for name in ("cls_preds", "box_preds", "anchors")]
    assert_same_detections(detect(raw, case), detections_of(outputs.reference), settings_of(case))


def test_detections_of_the_whole_path_are_gluoncv_s(case: ReferenceCase, outputs: Outputs) -> None:
    raw = [outputs.cls_logits, outputs.box_offsets, outputs.network.anchors]
    assert_same_detections(detect(raw, case), detections_of(outputs.reference), settings_of(case))


def test_an_exported_file_detects_what_gluoncv_does(exported_case: ReferenceCase, tmp_path: Path) -> None:
    reference = exported_case.arrays()
    network = build_network(exported_case.network, weights=exported_case.dotted, classes=exported_case.classes)
    path = export_onnx(network, tmp_path, settings=settings_of(exported_case))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ours = PaddedDetections(*session.run(list(PaddedDetections._fields), {"images": reference["x"]}))
    assert_same_detections(ours, detections_of(reference), settings_of(exported_case))


def test_every_backbone_is_checked_under_both_naming_schemes(manifest: dict[str, Any]) -> None:
    checked = {NETWORKS[entry["network"]].backbone for entry in manifest["cases"] if entry["legacy"]}
    assert checked == {config.backbone for config in NETWORKS.values() if config.project == "gluoncv"}


def test_some_images_have_more_detections_than_are_kept_and_some_fewer(manifest: dict[str, Any]) -> None:
    kept = [count for entry in manifest["cases"] if entry["nms_iou_threshold"] == 0.45 for count in entry["kept"]]
    assert sum(count == 100 for count in kept) >= 10
    assert sum(0 < count < 100 for count in kept) >= 4


def detections_of(reference: dict[str, NDArray[np.float32]]) -> PaddedDetections:
    return PaddedDetections(reference["bboxes"], reference["scores"], reference["ids"].astype(np.int64))


def assert_same_detections(ours: PaddedDetections, theirs: PaddedDetections, settings: PostprocessSettings) -> None:
    """Pair both sides' detections by label, box and score; fail on any that has no partner and no excuse."""
    assert ours.boxes.shape == theirs.boxes.shape and ours.labels.dtype == np.int64
    total, unmatched, unexplained = 0, 0, []
    for image in range(len(theirs.labels)):
        sides = [rows_of(side, image) for side in (ours, theirs)]
        partner = partners(*sides)
        left_over = (np.flatnonzero(partner < 0), np.setdiff1d(np.arange(len(sides[1])), partner))
        for name, side, indices in zip(("ours", "GluonCV's"), sides, left_over, strict=True):
            total += len(side)
            unmatched += len(indices)
            unexplained += [
                f"image {image}, {name}: {side.labels[index]}, {side.scores[index]:.5f}, {side.boxes[index]}"
                for index in indices
                if not is_explained(side, index, sides, settings.nms_iou_threshold)
            ]
    assert total, "there are no detections to compare"
    assert not unexplained, f"{len(unexplained)} of {total} (label, score, box) have no partner:\n" + "\n".join(
        unexplained[:5]
    )
    assert unmatched <= MAX_UNMATCHED_FRACTION * total, f"{unmatched} of {total} differ by a rounding"


def rows_of(padded: PaddedDetections, image: int) -> Detections:
    """Return one image's detections in input pixels, having checked the order and the padding."""
    is_real = padded.labels[image] >= 0
    assert (np.diff(is_real.astype(int)) <= 0).all(), "a detection follows a padding row"
    assert all((value[image][~is_real] == -1).all() for value in padded), "a padding row is not -1 throughout"
    assert (np.diff(padded.scores[image][is_real]) <= 0).all(), "scores are not descending"
    return Detections.from_padded(padded, image, (1, 1), (1, 1))


def partners(ours: Detections, theirs: Detections) -> NDArray[np.intp]:
    """Return for each of our detections the index of GluonCV's equal, each used once, or -1."""
    partner = np.full(len(ours), -1)
    distance = np.abs(ours.boxes[:, None] - theirs.boxes[None]).max(axis=2, initial=0)
    distance[ours.labels[:, None] != theirs.labels] = np.inf
    distance[np.abs(ours.scores[:, None] - theirs.scores) > SCORE_TOLERANCE] = np.inf
    for index in range(len(ours)):
        nearest = distance[index].argmin() if len(theirs) else -1
        if len(theirs) and distance[index, nearest] <= BOX_TOLERANCE_PX:
            partner[index] = nearest
            distance[:, nearest] = np.inf
    return partner


def is_explained(side: Detections, index: int, sides: list[Detections], nms_iou_threshold: float) -> bool:
    """True where a rounding accounts for a detection that only one side has.

    Either it is about the last that is kept, so that another took its place, or its overlap with a
    better one of its class is about the threshold.
    """
    if side.scores[index] <= side.scores.min() + SCORE_TOLERANCE:
        return True
    others = [other.boxes[other.labels == side.labels[index]] for other in sides]
    overlaps = iou(side.boxes[index : index + 1], np.concatenate(others))
    return bool((np.abs(overlaps - nms_iou_threshold) <= IOU_MARGIN).any())
