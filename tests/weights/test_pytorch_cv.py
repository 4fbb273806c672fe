"""Checkpoints of pytorch-cv: their names, and whose arithmetic the added levels get, against plain functions."""

import json
import logging
import os
import re
from pathlib import Path

import pytest
import torch
from foreign_files import pytorch_cv_tensors
from torch.nn import functional

from ssd_train import build_network
from ssd_train.errors import WeightsError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.zoo import NETWORKS
from ssd_train.weights.network_file import save_network
from ssd_train.weights.pytorch_cv import batch_norm_of, pytorch_cv_state

MOBILENET = "ssd_512_mobilenet1.0_voc"
SMALL = "ssd_300_mobilenet0.25_voc"


def built(name):
    with torch.device("meta"):
        return build_ssd(NETWORKS[name])


def checkpoint_of(network, seed, lowest_scale):
    """A network's tensors by pytorch-cv's names, its added levels with statistics and scales of their own."""
    generator = torch.Generator().manual_seed(seed)
    tensors = pytorch_cv_tensors(network)
    for name, tensor in tensors.items():
        if re.fullmatch(r"features\.extras\.\d\.[14]\.weight", name):
            tensor.uniform_(lowest_scale, 1, generator=generator)
        elif re.fullmatch(r"features\.extras\.\d\.[14]\.(bias|running_mean)", name):
            tensor.normal_(0, 0.01, generator=generator)
        elif re.fullmatch(r"features\.extras\.\d\.[14]\.running_var", name):
            # From far below both epsilons to far above, of kernels that have such an output.
            tensor.copy_(10 ** torch.empty_like(tensor).uniform_(-7, -1, generator=generator))
            level, layer = name.split(".")[2:4]
            tensors[f"features.extras.{level}.{int(layer) - 1}.weight"] *= tensor.sqrt().view(-1, 1, 1, 1)
    return tensors


@torch.inference_mode()
def raw_predictions(network, taps, tensors, eps, *, with_scales):
    """What a checkpoint predicts, its added levels written out; `taps` are the backbone's maps.

    Returns logits and offsets of noise in one row, by the predictors of `network`.
    """

    def batch_norm(x, prefix):
        mean, var, scale, bias = (tensors[prefix + part] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, scale if with_scales else torch.ones_like(scale), bias, eps=eps)

    maps = list(taps)
    for level in range(4):
        prefix = f"features.extras.{level}"
        x = functional.conv2d(maps[-1], tensors[f"{prefix}.0.weight"])
        x = functional.relu(batch_norm(x, f"{prefix}.1."))
        x = functional.conv2d(x, tensors[f"{prefix}.3.weight"], stride=2, padding=1)
        maps.append(functional.relu(batch_norm(x, f"{prefix}.4.")))
    heads = (network.class_predictors, network.box_predictors)
    return torch.cat([head(x).flatten() for kind in heads for head, x in zip(kind, maps, strict=True)])


def a_network(name):
    """A network and its backbone's maps of noise."""
    torch.manual_seed(1)
    network = build_network(name)
    with torch.inference_mode():
        return network, network.features.backbone(noise(network))


def noise(network):
    return torch.randn(1, 3, *network.config.input_size, generator=torch.Generator().manual_seed(7))


@torch.inference_mode()
def predictions_of(network):
    logits, offsets = network(noise(network))
    config = network.config
    maps = zip(config.feature_sizes, config.anchors_per_cell, strict=True)
    counts = [rows * columns * count for (rows, columns), count in maps]
    return torch.cat([part.flatten() for kind in (logits, offsets) for part in kind.split(counts, dim=1)])


def largest_error(found, expected):
    """The largest difference, in standard deviations of what was expected."""
    return float((found - expected).abs().max() / expected.std())


@pytest.mark.parametrize(
    "name",
    [
        SMALL,
        MOBILENET,
        pytest.param("ssd_512_resnet50_v1_voc", marks=pytest.mark.slow),
        pytest.param("ssd_512_resnet50_v1s_voc", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_computes_as_it_was_trained_or_as_gluoncv_whichever_network_it_is_of(name, tmp_path, caplog):
    path = tmp_path / "ssd.pth"
    network, taps = a_network(name)
    caplog.set_level(logging.INFO, logger="ssd_train")
    for lowest_scale, eps, with_scales, whose in ((0.5, 1e-5, True, "pytorch-cv"), (0.9991, 1e-3, False, "GluonCV")):
        tensors = checkpoint_of(network, 2, lowest_scale)
        torch.save(tensors, path)
        loaded = build_network(name, weights=path)
        expected = raw_predictions(network, taps, tensors, eps, with_scales=with_scales)
        assert largest_error(predictions_of(loaded), expected) < 1e-5
        # Far from what the other arithmetic gives.
        other = raw_predictions(network, taps, tensors, 1e-3 if eps == 1e-5 else 1e-5, with_scales=not with_scales)
        assert largest_error(other, expected) > 0.1
        assert loaded.spec.weights == f"ssd.pth, from pytorch-cv, with {whose}'s batch norms in the added levels"
    trained, converted = caplog.messages
    assert str(path) in trained and "its own" in trained and "not all their scales" in trained
    assert str(path) in converted and "GluonCV's" in converted and "converted from GluonCV" in converted


@pytest.mark.parametrize(
    ("scale", "owner"),
    [(1.0, "gluoncv"), (1.001, "gluoncv"), (0.999, "gluoncv"), (1.0011, "own"), (0.9989, "own"), (-1.0, "own")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_scale_further_than_a_thousandth_from_1_makes_a_trained_checkpoint(scale, owner, dtype):
    tensors = pytorch_cv_tensors(build_ssd(NETWORKS[SMALL]))
    tensors["features.extras.2.4.weight"] = tensors["features.extras.2.4.weight"].to(dtype)
    tensors["features.extras.2.4.weight"][5] = scale
    assert batch_norm_of(tensors) == owner


def test_scales_of_the_backbone_do_not_count():
    tensors = pytorch_cv_tensors(build_ssd(NETWORKS[SMALL]))
    tensors["features.features.0.1.weight"].fill_(0.3)
    assert batch_norm_of(tensors) == "gluoncv"


@pytest.mark.parametrize(("lowest_scale", "batch_norm"), [(0.5, "gluoncv"), (0.9991, "own")])
def test_what_is_asked_for_beats_what_the_scales_say(lowest_scale, batch_norm, tmp_path, caplog):
    path = tmp_path / "ssd.pth"
    network, taps = a_network(SMALL)
    tensors = checkpoint_of(network, 3, lowest_scale)
    torch.save(tensors, path)
    caplog.set_level(logging.INFO, logger="ssd_train")
    loaded = build_network(SMALL, weights=path, batch_norm=batch_norm)
    is_own = batch_norm == "own"
    expected = raw_predictions(network, taps, tensors, 1e-5 if is_own else 1e-3, with_scales=is_own)
    assert largest_error(predictions_of(loaded), expected) < 1e-5
    assert f"as asked for with batch_norm {batch_norm!r}" in caplog.text


def test_a_variance_below_0_is_refused_and_not_computed_with(tmp_path):
    tensors = checkpoint_of(build_network(SMALL), 3, 0.5)
    tensors["features.extras.1.4.running_var"][3] = -0.01
    torch.save(tensors, tmp_path / "ssd.pth")
    with pytest.raises(WeightsError, match=r"ssd.pth: features.extras.1.bn.weight: belongs to a variance below 0"):
        build_network(SMALL, weights=tmp_path / "ssd.pth")


def test_what_was_loaded_is_kept_by_our_own_files(tmp_path):
    torch.save(checkpoint_of(build_network(SMALL, weights="random:1"), 3, 0.5), tmp_path / "ssd.pth")
    loaded = build_network(SMALL, weights=tmp_path / "ssd.pth")
    for name in ("own.safetensors", "own.pth"):
        save_network(loaded, tmp_path / name)
        again = build_network(SMALL, weights=tmp_path / name)
        assert torch.equal(predictions_of(again), predictions_of(loaded))
        assert again.spec.weights.startswith(f"{name}, from ssd.pth, from pytorch-cv, with pytorch-cv's batch norms")


def test_a_question_about_batch_norms_is_refused_where_there_is_none_to_ask(tmp_path):
    vgg = "ssd_300_vgg16_atrous_voc"
    torch.save(pytorch_cv_tensors(build_ssd(NETWORKS[vgg])), tmp_path / "vgg.pth")
    assert build_network(vgg, weights=tmp_path / "vgg.pth").spec.weights == "vgg.pth, from pytorch-cv"
    network = build_network(SMALL)
    save_network(network, tmp_path / "own.pth")
    for name, weights in ((vgg, tmp_path / "vgg.pth"), (SMALL, tmp_path / "own.pth"), (SMALL, "random"), (SMALL, None)):
        with pytest.raises(WeightsError, match="batch_norm 'own' is for checkpoints of pytorch-cv") as raised:
            build_network(name, weights=weights, batch_norm="own")
        assert raised.value.arguments == ("batch_norm",)
    with pytest.raises(WeightsError, match="batch_norm 'mine' does not exist; choose auto, gluoncv, own"):
        build_network(SMALL, weights="random", batch_norm="mine")


def test_a_batch_norm_with_variances_below_both_epsilons_computes_as_it_was_trained():
    name = "ssd_512_resnet50_v1s_voc"
    network = build_ssd(NETWORKS[name])
    tensors = pytorch_cv_tensors(network)
    generator = torch.Generator().manual_seed(0)
    for part in ("weight", "bias", "running_mean"):
        tensors[f"features.extras.3.1.{part}"] = torch.randn(256, generator=generator)
    # Tiny variances show the epsilon most.
    tensors["features.extras.3.1.running_var"] = torch.rand(256, generator=generator) * 1e-3
    loaded = build_ssd(NETWORKS[name])
    loaded.load_state_dict(pytorch_cv_state(tensors, built(name), Path("f.pth")))
    trained = torch.nn.BatchNorm2d(256).eval()  # PyTorch's default epsilon, 1e-5
    trained.load_state_dict(
        {key.removeprefix("features.extras.3.1."): value for key, value in tensors.items() if "extras.3.1." in key}
    )
    x = torch.randn(2, 256, 3, 3, generator=generator)
    ours = loaded.features.extras[3].trans_bn
    torch.testing.assert_close(ours(x), trained(x), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def published_layout():
    spec = Path(os.environ.get("SSD_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")).parent / "spec"
    path = spec / "pytorch_cv_checkpoint_keys.json"
    if not path.is_file():
        pytest.skip("the list of pytorch-cv's parameter names is not here")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "name", [n for n in sorted(NETWORKS) if re.search(r"(vgg16|50_v1|50_v1s|net1.0).*(voc|coco)$", n)]
)
def test_every_name_and_shape_that_pytorch_cv_published_is_taken(name, published_layout):
    layout = published_layout[name.replace("1.0", "1_0")]
    tensors = {key: torch.zeros(shape) for key, shape in layout.items()}
    network = built(name)
    network.load_state_dict(pytorch_cv_state(tensors, network, Path("f.pth")), assign=True)
