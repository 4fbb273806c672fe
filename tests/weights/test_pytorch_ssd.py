"""Checkpoints of pytorch-ssd and jetson-inference, against plain forward passes by their names; priors by hand."""

import logging
import math

import numpy as np
import pytest
import torch
from pytorch_ssd_files import CHECKPOINTS, mb1_ssd, mb2_ssd_lite, plain_forward

from ssd_train import build_network
from ssd_train.class_list import read_class_list
from ssd_train.errors import SpecError, WeightsError
from ssd_train.networks.anchors import generate_anchors
from ssd_train.networks.zoo import NETWORKS, VOC_CLASSES, find_network, is_network
from ssd_train.preprocess import preprocess
from ssd_train.weights.description import describe_weights

# Whole networks run.
pytestmark = pytest.mark.slow

NAMES = ("owl", "eagle")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """Return jetson's `--model-dir` of a training: checkpoints and the list of their classes."""
    folder = tmp_path_factory.mktemp("models")
    torch.save(mb1_ssd(3), folder / "mb1-ssd-Epoch-29-Loss-2.5.pth")
    (folder / "labels.txt").write_text("BACKGROUND\nowl\neagle")
    return folder


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_computes_what_its_own_names_say(tmp_path, name):
    tensors = CHECKPOINTS[name](3)
    torch.save(tensors, tmp_path / "w.pth")
    network = build_network(name, weights=tmp_path / "w.pth", classes=NAMES)
    images = torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = network(images)
    for ours, theirs in zip(found, plain_forward(name, tensors, 3, images), strict=True):
        assert ours.shape == theirs.shape
        # The order of sums differs at most, so a millionth or so of the values' spread.
        assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.std())


def test_priors_are_pytorch_ssds_by_hand():
    anchors = generate_anchors(NETWORKS["mb1-ssd"])
    np.testing.assert_array_equal(anchors, generate_anchors(NETWORKS["mb2-ssd-lite"]))
    assert anchors.shape == (6 * (19**2 + 10**2 + 5**2 + 3**2 + 2**2 + 1), 4)
    # The first cell: centre at half a step of 16, sizes 60 and sqrt(60 * 105), then ratios 2, 1/2, 3, 1/3.
    two, three, mean = math.sqrt(2), math.sqrt(3), math.sqrt(60 * 105)
    shapes = [[60, 60], [mean, mean], [60 * two, 60 / two], [60 / two, 60 * two], [60 * three, 60 / three]]
    np.testing.assert_allclose(anchors[:5], [[8, 8, *shape] for shape in shapes], rtol=1e-6)
    # The first level's last centre is outside, at 18.5 * 16 = 296; of the last level all that is wider than the input
    # is cut: sizes 285 and sqrt(285 * 330), of ratio 2 and 3 one side each.
    assert anchors[6 * 19**2 - 1, :2].tolist() == [296, 296]
    wide = [[285, 285], [300, 300], [300, 285 / two], [285 / two, 300], [300, 285 / three], [285 / three, 300]]
    np.testing.assert_allclose(anchors[-6:], [[150, 150, *shape] for shape in wide], rtol=1e-6)
    vgg = generate_anchors(NETWORKS["vgg16-ssd"])
    assert vgg.shape == (8732, 4) and vgg.max() == 300
    np.testing.assert_allclose(vgg[0], [4, 4, 30, 30])


def test_a_picture_becomes_what_its_transform_makes_of_it(model_dir):
    # Of one colour, so that no resize shows: (v - 127) / 128, and v - (123, 117, 104).
    picture = np.full((7, 9, 3), (255, 127, 10), np.uint8)
    for name, expected in (("mb1-ssd", (1, 0, -117 / 128)), ("vgg16-ssd", (132, 10, -94))):
        spec = build_network(name, weights=None).spec
        found = preprocess(picture, spec)
        np.testing.assert_allclose(found[:, 0, 0], expected, atol=2e-5)
        # OpenCV's INTER_LINEAR of 8 bits, whether it grows or shrinks.
        assert spec.resize == "opencv: linear" and found.shape == (3, 300, 300)


def test_a_bare_checkpoint_says_network_and_classes(model_dir):
    checkpoint = model_dir / "mb1-ssd-Epoch-29-Loss-2.5.pth"
    found = describe_weights(checkpoint)
    assert (found.network, found.class_names) == ("mb1-ssd", NAMES)


def test_the_list_beside_is_taken_and_named(model_dir, caplog):
    checkpoint = model_dir / "mb1-ssd-Epoch-29-Loss-2.5.pth"
    with caplog.at_level(logging.INFO):
        network = build_network("mb1-ssd", weights=checkpoint)
    assert network.spec.class_names == NAMES
    assert "labels.txt beside it" in caplog.text
    assert build_network("mb1-ssd", weights=checkpoint, classes=("a", "b")).spec.class_names == ("a", "b")
    assert network.spec.weights == "mb1-ssd-Epoch-29-Loss-2.5.pth, from pytorch-ssd"


def test_a_list_beside_that_does_not_fit_is_told(tmp_path):
    torch.save(mb1_ssd(3), tmp_path / "w.pth")
    (tmp_path / "labels.txt").write_text("BACKGROUND\nowl\neagle\nraven\n")
    with pytest.raises(WeightsError, match=r"predicts 2 classes, but labels.txt beside it names 3; give the") as raised:
        build_network("mb1-ssd", weights=tmp_path / "w.pth")
    assert raised.value.arguments == ("classes",)
    assert build_network("mb1-ssd", weights=tmp_path / "w.pth", classes=NAMES).spec.class_names == NAMES


def test_the_published_classes_are_usual_and_other_counts_ask_for_names(tmp_path):
    torch.save(mb2_ssd_lite(21), tmp_path / "voc.pth")
    assert build_network("mb2-ssd-lite", weights=tmp_path / "voc.pth").spec.class_names == VOC_CLASSES
    torch.save(mb2_ssd_lite(5), tmp_path / "own.pth")
    with pytest.raises(WeightsError, match="predicts 4 classes, but mb2-ssd-lite has 20; give the names of its 4"):
        build_network("mb2-ssd-lite", weights=tmp_path / "own.pth")


def test_a_checkpoint_of_another_network_or_without_a_tensor_is_told(tmp_path):
    tensors = mb1_ssd(3)
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds weights of mb1-ssd, not of vgg16-ssd; name that network"):
        build_network("vgg16-ssd", weights=tmp_path / "w.pth", classes=NAMES)
    del tensors["extras.1.0.bias"]
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"does not fit mb1-ssd: it lacks extras\.1\.0\.bias; use a whole copy"):
        build_network("mb1-ssd", weights=tmp_path / "w.pth", classes=NAMES)


def test_a_checkpoint_is_read_at_the_resolution_that_is_named(model_dir):
    checkpoint = model_dir / "mb1-ssd-Epoch-29-Loss-2.5.pth"
    network = build_network("mb1-ssd-512", weights=checkpoint)
    with torch.inference_mode():
        logits, offsets = network(torch.zeros(1, 3, 512, 512))
    assert logits.shape == (1, len(network.anchors), 3) and network.spec.network == "mb1-ssd-512"
    # jetson's `set_image_size(512)` by hand: steps of 16 to 512, sizes of 10, 20, 37, 54, 71, 88 and 105 %.
    assert len(network.anchors) == 6 * (32**2 + 16**2 + 8**2 + 4**2 + 2**2 + 1)
    torch.testing.assert_close(network.anchors[0], torch.tensor([8, 8, 51.2, 51.2]))
    torch.testing.assert_close(network.anchors[-6], torch.tensor([256, 256, 450.56, 450.56]))
    # And of 400: maps of 25, 13, 7, 4, 2, 1; 13 cells of 31 pixels reach past the input, and are cut there.
    config = find_network("mb1-ssd-400")
    assert config.feature_sizes == ((25, 25), (13, 13), (7, 7), (4, 4), (2, 2), (1, 1))
    assert [step for step, _ in config.steps] == [16, 31, 58, 100, 200, 400]
    assert generate_anchors(config)[:, :2].max() <= 400
    assert find_network("mb1-ssd-300") == NETWORKS["mb1-ssd"]
    assert not is_network("mb1-ssd-50") and not is_network("mb2-ssd-lite-512")


def test_checkpoints_from_before_batches_were_counted_are_read(tmp_path):
    tensors = {name: tensor for name, tensor in mb1_ssd(3).items() if "num_batches" not in name}
    torch.save(tensors, tmp_path / "old.pth")
    assert build_network("mb1-ssd", weights=tmp_path / "old.pth", classes=NAMES).config.name == "mb1-ssd"


def test_a_first_line_background_is_no_class(tmp_path):
    for text, names in (("BACKGROUND\nowl\n", ("owl",)), ("owl\nBACKGROUND\n", ("owl", "BACKGROUND"))):
        (tmp_path / "labels.txt").write_text(text)
        assert read_class_list(tmp_path / "labels.txt") == names
    (tmp_path / "labels.txt").write_text("BACKGROUND\n")
    with pytest.raises(SpecError, match=r"labels\.txt"):
        read_class_list(tmp_path / "labels.txt")
