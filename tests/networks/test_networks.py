"""Shapes and sizes of every network in the table, against GluonCV's counts."""

import subprocess
import sys

import pytest
import torch

from ssd_train import build_network
from ssd_train.errors import NetworkError, SpecError, WeightsError
from ssd_train.networks.build import BACKBONES, build_ssd
from ssd_train.networks.complexity import measure
from ssd_train.networks.vgg_atrous import L2Normalize
from ssd_train.networks.zoo import NETWORKS, network_config
from ssd_train.weights.load import random_seed

EXPECTED_NAMES = {
    *(f"ssd_300_vgg16_atrous_{data}" for data in ("voc", "coco", "custom")),
    *(f"ssd_512_vgg16_atrous_{data}" for data in ("voc", "coco", "custom")),
    *(f"ssd_512_resnet50_v1_{data}" for data in ("voc", "coco", "custom")),
    *(f"ssd_512_mobilenet1.0_{data}" for data in ("voc", "coco", "custom")),
    *(f"ssd_512_resnet50_v1s_{data}" for data in ("voc", "custom")),
    *(f"ssd_300_resnet34_v1b_{data}" for data in ("voc", "coco", "custom")),
    *(f"ssd_512_resnet18_v1_{data}" for data in ("voc", "coco", "custom")),
    *(f"ssd_512_resnet101_v2_{data}" for data in ("voc", "custom")),
    *(f"ssd_300_mobilenet0.25_{data}" for data in ("voc", "coco", "custom")),
    "ssd_512_mobilenet0.25_custom",
    *(f"ssd_512_{backbone}_custom" for backbone in ("resnet50_v1b", "resnet101_v1b")),
    *(f"ssd_512_{backbone}_custom" for backbone in ("mobilenet_v3_large", "regnet_x_400mf")),
}


def on_meta(name):
    with torch.device("meta"):
        return build_ssd(network_config(name, ["a", "b"] if name.endswith("custom") else None)).to("meta")


def test_the_table_has_every_network():
    others = {name for name, row in NETWORKS.items() if row.project in ("torchvision", "pytorch-ssd")}
    assert set(NETWORKS) - others == EXPECTED_NAMES
    assert others == {
        "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large_full_tail",
        "mb1-ssd", "mb2-ssd-lite", "vgg16-ssd",
    }  # fmt: skip
    assert {config.backbone for config in NETWORKS.values()} == set(BACKBONES)


@pytest.mark.parametrize("name", sorted(EXPECTED_NAMES))
def test_every_network_gives_logits_offsets_and_maps_of_its_row(name):
    network = on_meta(name)
    config = network.config
    images = torch.empty(2, 3, *config.input_size, device="meta")
    maps = network.features(images)
    assert tuple(tuple(each.shape[2:]) for each in maps) == config.feature_sizes
    cls_logits, box_offsets = network(images)
    assert cls_logits.shape == (2, config.num_anchors, len(config.class_names) + 1)
    assert box_offsets.shape == (2, config.num_anchors, 4)
    assert network.anchors.shape == (config.num_anchors, 4)


# Values in GluonCV's files, anchors apart.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ssd_300_vgg16_atrous_voc", 26_285_489),
        ("ssd_300_vgg16_atrous_coco", 34_305_209),
        ("ssd_512_vgg16_atrous_voc", 27_188_679),
        ("ssd_512_resnet50_v1_voc", 36_528_238),
        ("ssd_512_resnet50_v1_coco", 49_801_078),
        ("ssd_512_mobilenet1.0_voc", 13_809_582),
        ("ssd_512_mobilenet1.0_coco", 22_658_742),
        ("ssd_512_resnet50_v1s_voc", 36_633_518),
        ("ssd_300_resnet34_v1b_voc", 24_752_302),
        ("ssd_512_resnet18_v1_voc", 20_583_086),
        ("ssd_512_resnet101_v2_voc", 39_895_994),
    ],
)
def test_networks_hold_as_many_values_as_gluoncvs(name, count):
    state = on_meta(name).state_dict()
    values = sum(each.numel() for key, each in state.items() if key != "anchors" and each.dtype == torch.float32)
    assert values == count


def test_work_is_counted_as_two_operations_a_multiply_add():
    # The SSD paper's VGG-16 network at 300 pixels: 31.4 G multiply-adds, about twice that in operations.
    assert measure(NETWORKS["ssd_300_vgg16_atrous_voc"]).gflops == pytest.approx(62.7, abs=0.5)


def test_the_channel_norm_has_its_epsilon_inside_the_root():
    norm = L2Normalize(2)
    # Squares sum to 2e-6: inside the root 1e-5 matters, outside it the result would be 20 / sqrt(2) almost.
    small = torch.full((1, 2, 1, 1), 1e-3)
    expected = 20 * 1e-3 / (2e-6 + 1e-5) ** 0.5
    torch.testing.assert_close(norm(small), torch.full((1, 2, 1, 1), expected))


def test_a_network_says_what_is_wrong_with_its_input():
    network = build_network("ssd_300_mobilenet0.25_voc")
    with pytest.raises(NetworkError, match=r"\(N, 3, 300, 300\), not \(1, 3, 512, 512\)"):
        network(torch.zeros(1, 3, 512, 512))


def test_custom_networks_take_a_class_list_and_fixed_ones_refuse_another():
    network = build_network("ssd_300_mobilenet0.25_custom", classes=["cat", "dog", "owl"])
    assert network(torch.zeros(1, 3, 300, 300))[0].shape == (1, 2268, 4)
    assert network.spec.class_names == ("cat", "dog", "owl")
    with pytest.raises(NetworkError, match="use ssd_300_mobilenet0.25_custom"):
        build_network("ssd_300_mobilenet0.25_voc", classes=["cat"])
    with pytest.raises(NetworkError, match="has no class list of its own; give its class names") as raised:
        build_network("ssd_300_mobilenet0.25_custom")
    assert raised.value.arguments == ("classes",)
    with pytest.raises(SpecError, match="repeats cat"):
        build_network("ssd_300_mobilenet0.25_custom", classes=["cat", "cat"])


def test_a_text_is_no_class_list():
    with pytest.raises(NetworkError, match="the text 'cat'"):
        build_network("ssd_300_mobilenet0.25_custom", classes="cat")


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(NetworkError, match="did you mean ssd_512_resnet50_v1_coco"):
        build_network("ssd_512_resnet50_coco")


def test_names_are_found_in_upper_case_too():
    assert build_network("SSD_300_MobileNet0.25_VOC").config.name == "ssd_300_mobilenet0.25_voc"


def test_random_weights_repeat_with_their_seed_and_differ_with_another():
    first, again, other = (
        build_network("ssd_300_mobilenet0.25_voc", weights=weights) for weights in ("random", "random:0", "random:1")
    )
    assert first.spec.weights == "random, seed 0" and other.spec.weights == "random, seed 1"
    assert first.spec.weights_sha256 == again.spec.weights_sha256 != other.spec.weights_sha256
    image = torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores = first(image)[0].softmax(-1)[..., 1:]
    # A work load like a detector's: neither nothing nor everything passes the threshold.
    assert 20 < int((scores > 0.01).sum()) < 0.2 * scores.numel()


@pytest.mark.parametrize(
    ("weights", "message"),
    [("random:x", "whole number"), ("random:-1", "whole number"), (f"random:{2**63}", "below 2")],
)
def test_a_seed_must_be_a_whole_number_that_generators_take(weights, message):
    with pytest.raises(WeightsError, match=f"^weights {weights}: .*{message}") as raised:
        random_seed(weights)
    assert raised.value.arguments == ("weights",)


def test_random_alone_is_seed_0_and_a_file_name_is_no_seed():
    assert random_seed("random") == random_seed("random:0") == 0
    assert random_seed("randomly.params") is None and random_seed(None) is None


def test_only_gluoncvs_trained_parameters_are_trainable():
    network = build_network("ssd_300_mobilenet0.25_voc")
    fixed = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert fixed == {f"features.extras.{i}.{bn}.weight" for i in range(4) for bn in ("trans_bn", "bn")}


def test_the_table_is_read_without_torch():
    code = "import sys, ssd_train.networks.zoo, ssd_train.networks.anchors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
