"""What anchors cover: by hand for one cell, against every anchor of real networks, and on real blood cells."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ssd_train.boxes import iou
from ssd_train.data_check.anchors import Cover, advice, best_anchor_iou, better_input, cover, covers
from ssd_train.data_check.check import check_data
from ssd_train.data_check.objects import Objects
from ssd_train.datasets.source import find_source
from ssd_train.networks.anchors import generate_anchors, with_even_steps
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.zoo import NETWORKS, find_network

# One cell, whose anchors are squares of 50 and of the root of 50 x 128, which is 80, around the centre (50, 50).
TINY = NetworkConfig(
    name="tiny",
    backbone="none",
    input_size=(100, 100),
    class_names=("cat", "dog", "bird"),
    feature_sizes=((1, 1),),
    sizes=(50.0, 128.0),
    ratios=((1.0,),),
    steps=((100, 100),),
)


def objects_at(boxes: list[tuple[float, float, float, float]], labels: list[int]) -> Objects:
    """Objects whose boxes are given in shares of a square image of 100 pixels."""
    shares = np.array(boxes) / 100
    return Objects(labels=np.array(labels), boxes=shares, sizes=100 * (shares[:, 2:] - shares[:, :2]))


def test_the_best_anchor_is_by_hand() -> None:
    boxes = np.array([[25, 25, 75, 75], [25, 25, 75, 50], [10, 10, 90, 90], [0, 0, 10, 10], [50, 25, 100, 75]], float)
    # The last one has 25 x 50 in common with 50 x 50, of 3750 together; with 80 x 80 it has 40 x 50 of 6900.
    expected = [1, 0.5, 1, 0, 1 / 3]
    np.testing.assert_allclose(best_anchor_iou(boxes, generate_anchors(TINY)), expected, atol=1e-7)


def test_shares_count_objects_at_the_threshold_and_classes_without_any_have_none() -> None:
    objects = objects_at([(25, 25, 75, 75), (25, 25, 75, 50), (25, 25, 75, 49), (0, 0, 10, 10)], [0, 0, 0, 1])
    found = cover(objects, TINY)
    assert found.shares[:2] == pytest.approx((2 / 3, 0)) and np.isnan(found.shares[2])
    assert (found.network, found.input_size, found.objects) == ("tiny", (100, 100), (3, 1, 0))


@pytest.mark.parametrize(
    "name", ["ssd_300_vgg16_atrous_voc", "ssd_300_mobilenet0.25_custom", "ssd_512_vgg16_atrous_coco"]
)
@pytest.mark.parametrize("is_even", [False, True])
def test_the_nearest_cell_is_the_best_of_all_anchors(name: str, is_even: bool) -> None:
    config = with_even_steps(NETWORKS[name]) if is_even else NETWORKS[name]
    rng = np.random.default_rng(1)
    # Some reach outside the input, some are tiny.
    centres, sides = rng.uniform(-5, config.input_size[0] + 5, (300, 2)), np.exp(rng.uniform(0, 6, (300, 2)))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    anchors = generate_anchors(config)
    corners = np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=1)
    np.testing.assert_allclose(best_anchor_iou(boxes, anchors), iou(boxes, corners).max(axis=1), atol=1e-5)


def test_anchors_are_placed_as_a_training_places_them() -> None:
    # In the corner that GluonCV's steps of this network do not reach.
    objects = objects_at([(80, 80, 95, 95)], [0])
    row = dataclasses.replace(find_network("ssd_300_mobilenet0.25_custom"), class_names=("cat",))
    assert cover(objects, row).shares == (1.0,)
    assert best_anchor_iou(300 * objects.boxes, generate_anchors(row))[0] < 0.5


def test_the_same_backbone_is_compared_at_its_other_sizes() -> None:
    objects = objects_at([(10, 10, 20, 20)], [0])
    row = dataclasses.replace(find_network("ssd_300_mobilenet0.25_custom"), class_names=("cat",))
    names = [each.network for each in covers(objects, row)]
    assert names[0] == "ssd_300_mobilenet0.25_custom" and "ssd_512_mobilenet0.25_custom" in names
    assert all("_mobilenet0.25_custom" in name for name in names) and len(set(names)) == len(names)


def made(side: int, *shares: float, count: int = 20) -> Cover:
    return Cover(network=f"net{side}", input_size=(side, side), objects=(count,) * len(shares), shares=shares)


def test_advice_names_the_smallest_input_that_mends_what_is_poor() -> None:
    found = [made(300, 0.5, 0.9), made(512, 0.88, 0.7), made(640, 0.9, 0.7), made(768, 0.91, 0.7)]
    assert better_input(found) == found[1]
    sentence = advice(found, ("cell", "dust"))
    assert sentence is not None
    assert "net300" in sentence and "cell 50 %" in sentence and "net512 does better: cell 88 %" in sentence
    assert "dust" not in sentence


def test_advice_promises_nothing_that_is_not_there() -> None:
    for others in ([], [made(512, 0.52)]):
        sentence = advice([made(300, 0.5), *others], ("cell",))
        assert sentence is not None and "no other input size" in sentence
    # Well covered, or too few objects to say.
    assert advice([made(300, 0.8), made(512, 1.0)], ("cell",)) is None
    assert advice([made(300, 0.1, count=9), made(512, 1.0)], ("cell",)) is None


def test_many_poor_classes_are_counted() -> None:
    sentence = advice([made(300, *[0.1 * n for n in range(8)])], tuple("abcdefgh"))
    assert sentence is not None and "a 0 %, b 10 %, c 20 %, d 30 %, e 40 %, and 3 classes more" in sentence


def test_512_pixels_mend_what_300_lack_of_platelets(real_data: Path) -> None:
    report = check_data(find_source(real_data / "bccd"), network="ssd_300_mobilenet0.25_custom", with_images=False)
    shares = {each.network: dict(zip(report.class_names, each.shares, strict=True)) for each in report.covers}
    # Counted with `boxes.iou` over every anchor.
    assert shares["ssd_300_mobilenet0.25_custom"]["Platelets"] == pytest.approx(191 / 361)
    assert shares["ssd_512_mobilenet0.25_custom"]["Platelets"] == pytest.approx(336 / 361)
    (note,) = [found.finding.message for found in report.findings if found.finding.rule == "anchors"]
    assert "Platelets 53 %" in note and "ssd_512_mobilenet0.25_custom does better: Platelets 93 %" in note
