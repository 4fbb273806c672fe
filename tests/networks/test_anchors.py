"""Anchors against sums and corner values of GluonCV's own tables."""

import dataclasses
import hashlib
import math

import numpy as np
import pytest

from ssd_train.networks.anchors import generate_anchors
from ssd_train.networks.zoo import NETWORKS, find_network


# Sums over all anchors in float64 and the last anchor, printed by GluonCV.
@pytest.mark.parametrize(
    ("name", "count", "centre_sum", "size_sum", "last"),
    [
        ("ssd_300_vgg16_atrous_voc", 8732, 1333184.0, 453128.788, (150, 150, 186.6762, 373.3524)),
        ("ssd_300_vgg16_atrous_coco", 8732, 1333184.0, 351659.410, (150, 150, 184.5549, 369.1097)),
        ("ssd_300_resnet34_v1b_voc", 8732, 1333184.0, 351659.410, (150, 150, 184.5549, 369.1097)),
        ("ssd_512_vgg16_atrous_coco", 24564, 6288384.0, 1849154.551, (256, 256, 325.8348, 651.6696)),
        ("ssd_512_resnet50_v1_voc", 6132, 1569792.0, 533403.102, (256, 256, 318.6223, 637.2446)),
        ("ssd_512_mobilenet1.0_coco", 6132, 1569792.0, 533403.102, (256, 256, 318.6223, 637.2446)),
        ("ssd_512_resnet50_v1_coco", 6132, 1569792.0, 606995.199, (256, 256, 325.8348, 651.6696)),
    ],
)
def test_anchors_have_gluoncvs_sums_and_last_box(name, count, centre_sum, size_sum, last):
    anchors = generate_anchors(NETWORKS[name])
    assert anchors.shape == (count, 4) and anchors.dtype == np.float32
    sums = anchors.astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(sums, [centre_sum, centre_sum, size_sum, size_sum], atol=1e-3)
    np.testing.assert_allclose(anchors[-1], last, atol=1e-4)


def test_the_first_cell_has_its_boxes_in_gluoncvs_order():
    first = generate_anchors(NETWORKS["ssd_300_vgg16_atrous_voc"])[:4]
    expected = [[4, 4, 30, 30], [4, 4, 42.42641, 42.42641], [4, 4, 42.42641, 21.21320], [4, 4, 21.21320, 42.42641]]
    np.testing.assert_allclose(first, expected, atol=1e-5)


def test_cells_run_along_rows_first():
    anchors = generate_anchors(NETWORKS["ssd_300_vgg16_atrous_voc"])
    np.testing.assert_array_equal(anchors[4, :2], [12, 4])
    np.testing.assert_array_equal(anchors[4 * 38, :2], [4, 12])


# SHA-256 of the bytes, written down before networks of other sizes existed.
HASHES = {
    "d08081e34c156a84": {"ssd_300_vgg16_atrous_voc"},
    "770c226f0153934c": {
        *(f"ssd_300_vgg16_atrous_{data}" for data in ("coco", "custom")),
        *(f"ssd_300_resnet34_v1b_{data}" for data in ("voc", "coco", "custom")),
    },
    "4008dde94fe9efbe": {f"ssd_512_vgg16_atrous_{data}" for data in ("voc", "coco", "custom")},
    "831c54e44a069ad3": {
        *(f"ssd_512_{name}_voc" for name in ("resnet50_v1", "resnet50_v1s", "resnet18_v1", "resnet101_v2")),
        *(f"ssd_512_mobilenet1.0_{data}" for data in ("voc", "coco", "custom")),
        *(f"ssd_512_resnet18_v1_{data}" for data in ("coco", "custom")),
        "ssd_512_resnet101_v2_custom",
    },
    "92cf5f446e01b133": {"ssd_512_resnet50_v1_coco", "ssd_512_resnet50_v1_custom", "ssd_512_resnet50_v1s_custom"},
    "b27a2da1769ba0e1": {f"ssd_300_mobilenet0.25_{data}" for data in ("voc", "coco", "custom")},
    "8ae96277cbc6367a": {"ssd_512_mobilenet0.25_custom"},
}


def test_the_tables_anchors_are_what_they_were_to_the_byte():
    hashes = {}
    for name, config in NETWORKS.items():
        if config.project in ("torchvision", "pytorch-ssd"):
            continue  # hand-worked in their own tests
        hashes.setdefault(hashlib.sha256(generate_anchors(config).tobytes()).hexdigest()[:16], set()).add(name)
    assert hashes == HASHES


def test_anchors_are_cut_at_the_input_as_their_row_says() -> None:
    whole = dataclasses.replace(
        find_network("ssd_300_vgg16_atrous_coco"),
        feature_sizes=((1, 2),), sizes=(280.0, 320.0), ratios=((1.0, 2.0),), steps=((300.0, 200.0),),
    )  # fmt: skip
    # Centres 100 and 300 across, 150 down; a square of 280, one of sqrt(280 * 320), a box of 2 to 1.
    side, wide, flat = math.sqrt(280 * 320), 280 * math.sqrt(2), 280 / math.sqrt(2)
    expected = {
        "none": [[280, 280], [side, side], [wide, flat]],
        "sizes": [[280, 280], [side, side], [300, flat]],
        "all": [[280, 280], [side, side], [300, flat]],
    }
    for clip, shapes in expected.items():
        anchors = generate_anchors(dataclasses.replace(whole, anchor_clip=clip))
        np.testing.assert_allclose(anchors[:, 2:], np.array(shapes + shapes), rtol=1e-6)
        assert anchors[:, 0].tolist() == [100, 100, 100, 300, 300, 300]
    far = dataclasses.replace(whole, steps=((300.0, 220.0),))
    assert generate_anchors(far)[3, 0] == 330
    assert generate_anchors(dataclasses.replace(far, anchor_clip="sizes"))[3, 0] == 330
    assert generate_anchors(dataclasses.replace(far, anchor_clip="all"))[3, 0] == 300
