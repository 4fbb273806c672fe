"""Networks of sizes that no row of the table has: names, maps, anchors."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from ssd_train import build_network
from ssd_train.errors import NetworkError, WeightsError
from ssd_train.networks.anchors import covered_share, generate_anchors
from ssd_train.networks.any_size import at_size, preset_row
from ssd_train.networks.build import build_ssd
from ssd_train.networks.complexity import measure
from ssd_train.networks.vgg_atrous import EXTRAS_512, EXTRAS_ANY_SIZE, VGGAtrousFeatures
from ssd_train.networks.zoo import NETWORKS, find_network, is_network, network_config
from ssd_train.weights.network_file import read_network, save_network

SMALL = "ssd_160x96_mobilenet0.25_custom"
# Of networks that are called by their input's size; other projects' are not.
OF_ANY_SIZE = sorted({row.backbone for row in NETWORKS.values() if row.name.endswith("_custom")})


@pytest.mark.parametrize("backbone", OF_ANY_SIZE)
@pytest.mark.parametrize("size", ["96", "160x96", "1280x416"])
def test_maps_and_anchors_are_those_of_the_real_network(size: str, backbone: str) -> None:
    config = network_config(f"ssd_{size}_{backbone}_custom", ["a"])
    with torch.device("meta"):
        network = build_ssd(config).to("meta")
        images = torch.empty(1, 3, *config.input_size)
    assert tuple(tuple(each.shape[2:]) for each in network.features(images)) == config.feature_sizes
    logits, offsets = network(images)
    assert logits.shape[1] == offsets.shape[1] == len(generate_anchors(config)) == config.num_anchors


def test_the_maps_of_a_rectangle_by_hand() -> None:
    config = find_network("ssd_640x384_resnet50_v1_custom")
    assert config.input_size == (384, 640)
    assert config.feature_sizes == ((24, 40), (12, 20), (6, 10), (3, 5), (2, 3), (1, 2))
    assert config.steps[0] == (16, 16) and config.steps[-1] == (384, 320)


@pytest.mark.parametrize("backbone", OF_ANY_SIZE)
def test_the_levels_of_a_row_made_anew_at_its_own_size_are_the_rows(backbone: str) -> None:
    row = preset_row(backbone, NETWORKS.values())
    made = at_size(row, row.input_size)
    if row.input_size == (512, 512):
        assert made == row
    else:
        # GluonCV's ResNet-34 has no border in its last level, and steps of its own.
        assert (made.sizes, made.feature_sizes[:-1]) == (row.sizes, row.feature_sizes[:-1])


def test_the_stride_is_read_off_the_maps_and_not_off_gluoncvs_steps() -> None:
    row = NETWORKS["ssd_300_mobilenet0.25_custom"]
    assert row.steps[0] == (8, 8)
    # Four convolutions of stride 2 lead to the first map.
    assert at_size(row, (96, 160)).feature_sizes == find_network(SMALL).feature_sizes == (
        (6, 10), (3, 5), (2, 3), (1, 2), (1, 1), (1, 1),
    )  # fmt: skip


@pytest.mark.parametrize("size", ["96", "320x1120", "1280x416"])
@pytest.mark.parametrize("backbone", OF_ANY_SIZE)
def test_anchors_cover_the_whole_input_evenly(size: str, backbone: str) -> None:
    config = find_network(f"ssd_{size}_{backbone}_custom")
    assert covered_share(config) == pytest.approx(1)
    height, width = config.input_size
    anchors = generate_anchors(config)
    start = 0
    for (rows, columns), count in zip(config.feature_sizes, config.anchors_per_cell, strict=True):
        level = anchors[start : start + rows * columns * count].reshape(rows, columns, count, 4)
        start += rows * columns * count
        # From the border to the first centre is half of what is between two, on both ends and along both sides.
        for centres, side, cells in ((level[0, :, 0, 0], width, columns), (level[:, 0, 0, 1], height, rows)):
            gaps = np.diff([-centres[0], *centres, 2 * side - centres[-1]])
            np.testing.assert_allclose(gaps, side / cells, rtol=1e-5)
        assert (level[..., 0] == level[:1, :, :1, 0]).all() and (level[..., 1] == level[:, :1, :1, 1]).all()
    assert start == len(anchors)


def test_an_anchor_has_the_rows_share_of_the_area_and_its_aspect() -> None:
    row, config = find_network("ssd_512_resnet50_v1_custom"), find_network("ssd_640x384_resnet50_v1_custom")
    first = generate_anchors(row)[0]
    assert first[2] == first[3] == pytest.approx(51.2)
    anchors = generate_anchors(config)
    # 51.2 of 512 pixels are a hundredth of the area: of 640 x 384 pixels the square of 49.57.
    np.testing.assert_allclose(anchors[0], [8, 8, 49.5741, 49.5741], atol=1e-4)
    np.testing.assert_allclose(anchors[2], [8, 8, 49.5741 * math.sqrt(2), 49.5741 / math.sqrt(2)], atol=1e-3)


def best_overlap(box: np.ndarray, anchors: np.ndarray) -> float:
    """Best IoU of a box (xyxy) with anchors (cx, cy, w, h)."""
    low, high = anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2
    shared = (np.minimum(high, box[2:]) - np.maximum(low, box[:2])).clip(0).prod(axis=1)
    return float((shared / (anchors[:, 2:].prod(axis=1) + (box[2:] - box[:2]).prod() - shared)).max())


@pytest.mark.parametrize(("aspect", "least"), [(1.0, 0.9), (4 / 3, 0.95), (5 / 3, 0.95)])
def test_objects_of_pictures_that_are_stretched_to_a_rectangle_find_an_anchor(aspect: float, least: float) -> None:
    anchors = generate_anchors(find_network("ssd_640x384_resnet50_v1_custom"))
    rng = np.random.default_rng(0)
    picture = np.array([aspect**0.5, aspect**-0.5])
    found = []
    while len(found) < 300:
        size, ratio = np.exp(rng.uniform(np.log(0.1), np.log(0.95))), np.exp(rng.normal(0, 0.5))
        sides = size * np.array([ratio**0.5, ratio**-0.5])
        if (sides < picture).all():
            corner = rng.uniform(0, picture - sides)
            box = np.concatenate([corner, corner + sides]) / np.tile(picture, 2) * [640, 384, 640, 384]
            found.append(best_overlap(box, anchors) >= 0.5)
    assert np.mean(found) >= least


def test_vggs_last_level_computes_on_two_cells_what_it_does_at_512() -> None:
    torch.manual_seed(0)
    fixed, free = VGGAtrousFeatures(EXTRAS_512), VGGAtrousFeatures(EXTRAS_ANY_SIZE)
    free.load_state_dict(fixed.state_dict())
    two_cells = torch.randn(1, 256, 2, 2)
    torch.testing.assert_close(free.extras[-1](two_cells), fixed.extras[-1](two_cells))
    assert free.extras[-1](torch.randn(1, 256, 5, 1)).shape[2:] == (3, 1)


# --- names ---


def test_a_square_has_one_name() -> None:
    assert find_network("ssd_512x512_resnet50_v1_custom") is NETWORKS["ssd_512_resnet50_v1_custom"]
    assert find_network("SSD_640x640_ResNet50_v1_custom").name == "ssd_640_resnet50_v1_custom"
    assert find_network("ssd_300x300_vgg16_atrous_voc") is NETWORKS["ssd_300_vgg16_atrous_voc"]
    assert find_network("ssd_512_resnet34_v1b_custom").input_size == (512, 512)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ssd_500_resnet18_v1_custom", "multiples of 32 from 96 to 1280; name for example ssd_512_resnet18_v1_custom"),
        ("ssd_2000_resnet18_v1_custom", "name for example ssd_1280_resnet18_v1_custom"),
        ("ssd_64_resnet18_v1_custom", "name for example ssd_96_resnet18_v1_custom"),
        ("ssd_640x390_resnet18_v1_custom", "name for example ssd_640x384_resnet18_v1_custom"),
        ("ssd_300_resnet18_v1_custom", "sides that are not in the table are multiples of 32"),
        ("ssd_640x_resnet18_v1_custom", "its size '640x' is neither a side nor width x height in pixels"),
        ("ssd_640x384x3_resnet18_v1_custom", "its size '640x384x3' is neither"),
        ("ssd_0x32_resnet18_v1_custom", "its size '0x32' is neither"),
        ("ssd_-64_resnet18_v1_custom", "its size '-64' is neither"),
        ("ssd_" + 5000 * "9" + "_resnet18_v1_custom", "is neither a side nor"),
        (
            "ssd_640_resnet50_v1_coco",
            "for coco has an input of 512 pixels; name ssd_640_resnet50_v1_custom, which takes",
        ),
        ("ssd_640x384_vgg16_atrous_voc", "vgg16_atrous for voc has an input of 300 and 512 pixels"),
        ("ssd_640_resnet50_custom", "did you mean"),
        ("ssd_640", "`ssd-deploy models` lists them all"),
    ],
)
def test_a_name_that_is_none_is_refused_with_what_would_be_one(name: str, message: str) -> None:
    with pytest.raises(NetworkError) as raised:
        find_network(name)
    assert message in str(raised.value) and raised.value.arguments == ("network",)
    assert not is_network(name)


def test_names_are_read_without_torch() -> None:
    code = (
        "import sys; from ssd_train.networks.zoo import find_network; find_network('ssd_640x384_resnet50_v1_custom'); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_class_list_is_needed_as_for_other_custom_networks() -> None:
    with pytest.raises(NetworkError, match=f"{SMALL} has no class list of its own"):
        build_network(SMALL)
    assert build_network(SMALL, classes=["a", "b"]).spec.class_names == ("a", "b")


# --- networks ---


def test_a_rectangle_takes_images_of_its_shape_only() -> None:
    network = build_network(SMALL, classes=["a"])
    assert network.spec.input_size == (96, 160)
    assert network(torch.zeros(1, 3, 96, 160))[0].shape == (1, network.config.num_anchors, 2)
    with pytest.raises(NetworkError, match=r"\(N, 3, 96, 160\), not \(1, 3, 160, 96\)"):
        network(torch.zeros(1, 3, 160, 96))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_come_back_with_name_size_and_anchors(suffix: str, tmp_path) -> None:
    network = build_network(SMALL, weights="random", classes=["a", "b"])
    network.anchors += 0.25
    path = tmp_path / f"weights.{suffix}"
    save_network(network, path)
    read = read_network(SMALL, path)
    assert read.spec.input_size == (96, 160) and read.config == network.config
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in read.state_dict().items())
    with pytest.raises(WeightsError, match=rf"holds weights of {SMALL}, not of ssd_96_mobilenet0.25_custom"):
        read_network("ssd_96_mobilenet0.25_custom", path)


def test_weights_of_another_project_are_of_the_tables_networks(tmp_path) -> None:
    path = tmp_path / "theirs.pth"
    torch.save({"anchor_generators.0.anchor": torch.zeros(1, 1, 64, 64, 16)}, path)
    with pytest.raises(WeightsError, match=f"comes from another project, which has no {SMALL}; name the network of"):
        read_network(SMALL, path, ["a"])


def test_random_weights_score_like_a_detectors_at_other_sizes_too() -> None:
    network = build_network("ssd_640x480_mobilenet0.25_custom", weights="random", classes=["a", "b"])
    images = torch.randn(1, 3, 480, 640, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores = network(images)[0].softmax(-1)[..., 1:]
    assert 0.0005 < float((scores > 0.01).float().mean()) < 0.9


def test_work_grows_with_the_area() -> None:
    small, large = (measure(network_config(f"ssd_{size}_resnet18_v1_custom", ["a"])) for size in ("512", "1024x512"))
    assert large.parameters == small.parameters
    assert large.gflops == pytest.approx(2 * small.gflops, rel=0.01)
