"""Names of the published formats -> ours, against name lists and counts of GluonCV's own files."""

from pathlib import Path

import pytest
import torch
from foreign_files import foreign_names, params_of, pytorch_cv_tensors

from ssd_train import build_network
from ssd_train.errors import SSDDeployError, WeightsError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.zoo import NETWORKS, network_config
from ssd_train.weights.mapping import mxnet_state
from ssd_train.weights.network_file import save_network
from ssd_train.weights.weight_file import read_tensors, write_safetensors

SMALL = "ssd_300_mobilenet0.25_voc"


def built(name, classes=None):
    with torch.device("meta"):
        return build_ssd(network_config(name, classes))


@pytest.fixture(scope="module")
def small():
    return build_network(SMALL, weights="random:5")


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("ssd_300_vgg16_atrous_voc", 78),
        ("ssd_512_vgg16_atrous_coco", 87),
        ("ssd_512_resnet50_v1_voc", 367),
        ("ssd_512_mobilenet1.0_voc", 205),
        ("ssd_512_resnet50_v1s_voc", 345),
        ("ssd_300_resnet34_v1b_voc", 226),
        ("ssd_512_resnet18_v1_voc", 170),
        ("ssd_512_resnet101_v2_voc", 546),
    ],
)
@pytest.mark.parametrize("scheme", ["dotted", "legacy"])
def test_as_many_arrays_are_named_as_gluoncvs_files_have(name, arrays, scheme):
    network = built(name)
    names = foreign_names(network, scheme)
    levels = len(network.config.feature_sizes)
    assert len(names) == len(set(names.values())) == arrays - levels
    own = {key for key in network.state_dict() if "num_batches" not in key and key != "anchors"}
    assert set(names) == own


@pytest.mark.parametrize(
    ("network", "scheme", "name"),
    [
        ("ssd_300_vgg16_atrous_voc", "dotted", "features.norm4.scale"),
        ("ssd_300_vgg16_atrous_voc", "legacy", "vggatrousextractor0_normalize0_normalize_scale"),
        ("ssd_300_vgg16_atrous_voc", "legacy", "vggatrousextractor0_init_scale"),
        ("ssd_300_vgg16_atrous_voc", "legacy", "vggatrousextractor0_conv12_bias"),
        ("ssd_300_vgg16_atrous_voc", "legacy", "vggatrousextractor0_dilated_conv1_weight"),
        ("ssd_512_vgg16_atrous_voc", "legacy", "vggatrousextractor0_extra4_conv1_weight"),
        ("ssd_512_resnet50_v1_voc", "dotted", "features.resnetv10_stage3_conv18_bias"),
        ("ssd_512_resnet50_v1_voc", "dotted", "features.resnetv10_stage1_batchnorm3_running_var"),
        ("ssd_512_resnet50_v1_voc", "dotted", "features.expand_trans_bn0_moving_mean"),
        ("ssd_512_resnet18_v1_voc", "legacy", "resnetv10_stage2_conv4_weight"),
        ("ssd_512_resnet50_v1s_voc", "legacy", "resnetv1s_down1_batchnorm0_gamma"),
        ("ssd_300_resnet34_v1b_voc", "dotted", "features.stage2.0.5.bn2.running_mean"),
        ("ssd_300_resnet34_v1b_voc", "dotted", "features.more_stages.3.2.bias"),
        ("ssd_300_resnet34_v1b_voc", "legacy", "resnetv1bssd0_conv7_bias"),
        ("ssd_512_resnet101_v2_voc", "legacy", "resnetv20_stage3_conv69_weight"),
        ("ssd_512_resnet101_v2_voc", "legacy", "resnetv20_stage4_batchnorm2_gamma"),
        ("ssd_512_mobilenet1.0_voc", "legacy", "mobilenet0_conv26_weight"),
        ("ssd_512_mobilenet1.0_voc", "legacy", "convpredictor11_conv0_bias"),
        ("ssd_512_mobilenet1.0_voc", "dotted", "class_predictors.5.predictor.weight"),
    ],
)
def test_names_that_gluoncvs_files_have_are_expected(network, scheme, name):
    assert name in foreign_names(built(network), scheme).values()


@pytest.mark.parametrize("scheme", ["dotted", "legacy"])
@pytest.mark.parametrize("prefix", ["", "arg:", "ssd3_", "ssd0_ssd0_", "arg:ssd12_"])
def test_both_schemes_give_the_same_network_under_any_prefix(small, scheme, prefix):
    arrays = params_of(small, scheme)
    if scheme == "legacy":
        arrays = {prefix + name.replace("mobilenet0_", "mobilenet7_"): array for name, array in arrays.items()}
    state = mxnet_state(arrays, built(SMALL), Path("f.params"))
    for name, tensor in small.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(state[name], tensor), name


def test_gammas_of_the_added_levels_are_ignored_and_all_others_kept(small):
    arrays = params_of(small, "dotted")
    arrays["features.expand_bn2_gamma"].fill_(0.3)
    arrays["features.expand_trans_bn0_gamma"].fill_(5.0)
    arrays["features.mobilenet0_batchnorm3_gamma"].fill_(0.7)
    state = mxnet_state(arrays, built(SMALL), Path("f.params"))
    assert (state["features.extras.2.bn.weight"] == 1).all() and (state["features.extras.0.trans_bn.weight"] == 1).all()
    assert (state["features.backbone.layers.3.1.weight"] == 0.7).all()


def test_the_input_batch_norm_of_resnet_v2_has_its_gamma_ignored_too():
    network = build_ssd(NETWORKS["ssd_512_resnet101_v2_voc"])
    arrays = params_of(network, "legacy")
    arrays["resnetv20_batchnorm0_gamma"].fill_(9.0)
    arrays["resnetv20_batchnorm0_beta"].fill_(0.5)
    state = mxnet_state(arrays, built("ssd_512_resnet101_v2_voc"), Path("f.params"))
    assert (state["features.backbone.input_bn.weight"] == 1).all()
    assert (state["features.backbone.input_bn.bias"] == 0.5).all()


def test_anchors_come_from_the_file_and_only_the_map_is_cut_out(small):
    arrays = params_of(small, "dotted")
    arrays["anchor_generators.0.anchors"] += 0.25
    state = mxnet_state(arrays, built(SMALL), Path("f.params"))
    first_level = 19 * 19 * 4
    assert torch.equal(state["anchors"][:first_level], small.anchors[:first_level] + 0.25)
    assert torch.equal(state["anchors"][first_level:], small.anchors[first_level:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("features.mobilenet0_conv5_weight"), "lacks features.mobilenet0_conv5_weight"),
        (lambda a: a.update({"extra.thing": torch.zeros(1)}), "unexpected extra.thing"),
        (
            lambda a: a.update({"features.mobilenet0_conv0_weight": torch.zeros(9, 3, 3, 3)}),
            r"mobilenet0_conv0_weight \(9, 3, 3, 3\) instead of \(8, 3, 3, 3\)",
        ),
        (
            lambda a: a.update({"class_predictors.0.predictor.bias": torch.zeros(4 * 81)}),
            "predicts 80 classes, but ssd_300_mobilenet0.25_voc has 20",
        ),
        (
            lambda a: a.update({"anchor_generators.0.anchors": torch.zeros(1, 1, 8, 8, 16)}),
            "anchors of level 0 have shape",
        ),
        (lambda a: a["features.mobilenet0_conv0_weight"].fill_(float("nan")), "not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_first_parameters(small, change, message):
    arrays = params_of(small, "dotted")
    change(arrays)
    with pytest.raises(WeightsError, match=message) as caught:
        mxnet_state(arrays, built(SMALL), Path("weights/f.params"))
    assert str(caught.value).startswith("weights/f.params: ")


def test_an_error_lists_three_names_and_counts_the_rest(small):
    arrays = params_of(small, "dotted")
    for index in range(6):
        del arrays[f"features.mobilenet0_conv{index}_weight"]
    with pytest.raises(WeightsError, match="conv2_weight and 3 more"):
        mxnet_state(arrays, built(SMALL), Path("f.params"))


@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested pth", "pytorch-cv"])
def test_every_kind_of_file_loads_whatever_it_is_called(kind, tmp_path):
    name = "ssd_512_mobilenet1.0_voc"
    network = build_network(name, weights="random:3")
    path = tmp_path / "weights.bin"
    if kind == "safetensors":
        save_network(network, path)
    elif kind == "pth":
        torch.save(network.state_dict(), path)
    elif kind == "nested pth":
        torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
    else:
        torch.save(pytorch_cv_tensors(network), path)
    loaded = build_network(name, weights=path)
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    # Only our own format has room to say what the weights were made from.
    origin = {
        "safetensors": ", from random, seed 3",
        "pytorch-cv": ", from pytorch-cv, with GluonCV's batch norms in the added levels",
    }
    assert loaded.spec.weights == "weights.bin" + origin.get(kind, "")
    assert len(loaded.spec.weights_sha256) == 64


def test_our_own_file_brings_its_class_list_and_its_network_name(tmp_path):
    path = tmp_path / "owls.safetensors"
    save_network(build_network("ssd_300_mobilenet0.25_custom", weights="random", classes=["owl", "eagle"]), path)
    assert build_network("ssd_300_mobilenet0.25_custom", weights=path).spec.class_names == ("owl", "eagle")
    with pytest.raises(WeightsError, match="holds weights of ssd_300_mobilenet0.25_custom"):
        build_network(SMALL, weights=path)
    with pytest.raises(WeightsError, match="saved for the classes owl, eagle"):
        build_network("ssd_300_mobilenet0.25_custom", weights=path, classes=["cat", "dog"])


def test_a_file_for_another_class_count_says_which_network_to_take(tmp_path):
    path = tmp_path / "coco.pth"
    torch.save(build_network("ssd_300_mobilenet0.25_coco").state_dict(), path)
    with pytest.raises(WeightsError, match="predicts 80 classes.*_custom one with its class names"):
        build_network(SMALL, weights=path)


def test_saving_over_a_file_keeps_it_when_writing_fails(tmp_path, monkeypatch, small):
    path = tmp_path / "w.safetensors"
    save_network(small, path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(SSDDeployError, match="w.safetensors: cannot be written .disk full."):
        write_safetensors(path, small.state_dict(), {})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert read_tensors(path).metadata["network"] == SMALL
