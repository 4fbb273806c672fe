"""torchvision's SSDs here against torchvision itself: anchors, preprocessing, predictions, detections, checkpoints."""

import argparse
import dataclasses
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models.detection.ssdlite as ssdlite_module
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_deploy.model_source import find_model
from ssd_deploy.parity.pairs import match_detections
from ssd_train.datasets.dataset import image_samples
from ssd_train.detections import Detections
from ssd_train.errors import WeightsError
from ssd_train.evaluation.loop import run_detector
from ssd_train.networks import zoo
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import COCO_CLASSES, NETWORKS
from ssd_train.precisions import in_precision
from ssd_train.preprocess import load_image, preprocess
from ssd_train.weights.load import fetch_weights
from ssd_train.weights.network_file import read_network
from ssd_train.weights.weight_file import read_tensors

# Whole networks run.
pytestmark = pytest.mark.slow

CLASSES = ("cell", "disc", "plate")
VGG, SSDLITE = "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"
FULL_TAIL = f"{SSDLITE}_full_tail"
LISTED = (VGG, SSDLITE)


def torchvisions(name: str, num_classes: int = len(CLASSES)) -> nn.Module:
    """torchvision's detector, random, with scores that tell places apart and statistics in its batch norms."""
    torch.manual_seed(7)
    if name == FULL_TAIL:
        original = ssdlite_module.mobilenet_v3_large
        with pytest.MonkeyPatch.context() as patch:
            # As where ImageNet weights are asked for, which cannot be fetched here.
            patch.setattr(
                ssdlite_module, "mobilenet_v3_large", lambda **given: original(**given | {"reduced_tail": False})
            )
            detector: nn.Module = detection.ssdlite320_mobilenet_v3_large(
                weights=None, weights_backbone=None, num_classes=num_classes + 1
            )
    else:
        detector = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes + 1)
    with torch.no_grad():
        if name == VGG:
            # Fresh weights expect a spread of 1, and this network's pixels have one of 70.
            next(module for module in detector.modules() if isinstance(module, nn.Conv2d)).weight /= 70
            return detector.eval()
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # take the statistics as they are
                module.weight.uniform_(0.7, 1.4)
                module.bias.uniform_(-0.1, 0.1)
        maps = list(detector.backbone(torch.randn(4, 3, 320, 320)).values())  # type: ignore[operator]
        heads: Any = detector.head
        for head, spread in ((heads.classification_head, 1.5), (heads.regression_head, 0.8)):
            for level, features in zip(head.module_list, maps, strict=True):
                level[1].weight *= spread / level(features).square().mean().sqrt()
    return detector.eval()


@functools.cache
def _pair(name: str, folder: Path) -> tuple[nn.Module, SSD]:
    theirs = torchvisions(name)
    path = folder / f"{name}.pth"
    torch.save({"model": theirs.state_dict(), "epoch": 3}, path)
    return theirs, read_network(name, path, CLASSES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    # Several threads that wait for each other are many times slower where other jobs share the cores.
    torch.set_num_threads(1)
    yield tmp_path_factory.mktemp("torchvision")
    torch.set_num_threads(threads)
    _pair.cache_clear()


@pytest.fixture(scope="module")
def pictures(real_data: Path) -> list[Path]:
    return sorted((real_data / "coco_tiny" / "val2017").iterdir())[:3]


def as_torchvision_takes_it(path: Path) -> Tensor:
    return torch.from_numpy(load_image(path)).permute(2, 0, 1).float().div(255)


# The rows


def test_the_usual_classes_are_torchvisions_categories_with_unique_names() -> None:
    for name, weights in (
        (VGG, detection.SSD300_VGG16_Weights),
        (SSDLITE, detection.SSDLite320_MobileNet_V3_Large_Weights),
    ):
        theirs = weights.COCO_V1.meta["categories"][1:]
        ours = NETWORKS[name].default_class_names
        assert len(ours) == len(set(ours)) == len(theirs) == 90
        assert [name if not name.startswith("N/A ") else "N/A" for name in ours] == theirs
        assert tuple(name for name in ours if not name.startswith("N/A ")) == COCO_CLASSES
        assert NETWORKS[name].checkpoint_url == weights.COCO_V1.url


@pytest.mark.parametrize("name", LISTED)
def test_thresholds_and_statistics_are_torchvisions(name: str, folder: Path) -> None:
    theirs, ours = _pair(name, folder)
    settings = ours.spec.postprocess
    assert settings.score_threshold == theirs.score_thresh and settings.nms_iou_threshold == theirs.nms_thresh
    assert settings.max_detections == theirs.detections_per_img and settings.clip_boxes
    transform: Any = theirs.transform
    assert list(ours.spec.mean) == transform.image_mean and list(ours.spec.std) == transform.image_std
    assert ours.spec.class_names == CLASSES


@pytest.mark.parametrize("name", LISTED)
def test_anchors_are_torchvisions(name: str, folder: Path) -> None:
    theirs, ours = _pair(name, folder)
    height, width = ours.config.input_size
    maps = [torch.empty(1, 1, *size) for size in ours.config.feature_sizes]
    (expected,) = theirs.anchor_generator(ImageList(torch.empty(1, 3, height, width), [(height, width)]), maps)  # type: ignore[operator]
    centres, sizes = ours.anchors.split(2, dim=1)
    found = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)
    # Float32 of up to 480 pixels, rounded twice.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# Pictures and predictions


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("size", [(480, 640), (120, 97), (300, 320), (2, 700)])
def test_preprocessing_is_torchvisions(name: str, size: tuple[int, int], folder: Path) -> None:
    theirs, ours = _pair(name, folder)
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    expected = theirs.transform([torch.from_numpy(image).permute(2, 0, 1).float().div(255)])[0].tensors[0]  # type: ignore[operator]
    found = torch.from_numpy(preprocess(image, ours.spec))
    # In grey levels. Theirs are normalised before they are resized, ours after; and a rounding of the place that a
    # value is taken from, of up to 700, is many times that of the value where neighbours differ by 255.
    grey_levels = (found - expected).abs() * torch.tensor(ours.spec.std)[:, None, None] * 255
    assert float(grey_levels.max()) < 1e-2


@torch.inference_mode()
def raw(theirs: nn.Module, ours: SSD, path: Path) -> list[tuple[Tensor, Tensor]]:
    """Pairs of ours and theirs, logits and offsets, of the same input."""
    images = theirs.transform([as_torchvision_takes_it(path)])[0].tensors  # type: ignore[operator]
    heads = theirs.head(list(theirs.backbone(images).values()))  # type: ignore[operator]
    logits, offsets = ours(images)
    return [(logits, heads["cls_logits"]), (offsets, heads["bbox_regression"])]


@pytest.mark.parametrize("name", [*LISTED, FULL_TAIL])
def test_raw_predictions_are_torchvisions(name: str, folder: Path, pictures: list[Path]) -> None:
    for found, expected in raw(*_pair(name, folder), pictures[0]):
        assert float(expected.std()) > 0.05
        assert float((found - expected).abs().max() / expected.std()) < 1e-5


def assert_same(found: list[Detections], expected: list[dict[str, Tensor]]) -> None:
    """Each detection of one side has its own partner on the other."""
    assert sum(len(of_picture) for of_picture in found) > 50
    assert {int(label) for of_picture in found for label in of_picture.labels} == set(range(len(CLASSES)))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs["scores"])
        boxes, scores, labels = (theirs[name].numpy() for name in ("boxes", "scores", "labels"))
        # A box outside of the input is clipped to a line, and lines of no width have no IoU.
        seen, also_seen = (np.prod(each[:, 2:] - each[:, :2], axis=1) > 1 for each in (ours.boxes, boxes))
        pairs = match_detections(ours, Detections(boxes, scores, labels - 1), 0.99)
        assert len(pairs) >= seen.sum() == also_seen.sum()
        np.testing.assert_allclose(ours.scores[pairs[:, 0]], scores[pairs[:, 1]], atol=1e-5)
        np.testing.assert_allclose(ours.boxes[pairs[:, 0]], boxes[pairs[:, 1]], atol=1e-2)


@pytest.fixture(scope="module")
@torch.inference_mode()
def all_candidates(folder: Path, pictures: list[Path]) -> tuple[nn.Module, SSD]:
    """Both sides with every candidate above one threshold: they choose candidates in different ways.

    There are fewer of them than are kept behind NMS, so that nothing hangs on which is the last one.
    """
    theirs, ours = _pair(SSDLITE, folder)
    images = torch.from_numpy(np.stack([preprocess(load_image(path), ours.spec) for path in pictures]))
    scores = ours(images)[0].softmax(-1)[..., 1:].flatten(1)
    kept = ours.spec.postprocess.max_detections
    threshold = float(scores.sort(descending=True).values[:, kept].max())
    theirs.topk_candidates, theirs.score_thresh = kept, threshold  # type: ignore[assignment]
    settings = dataclasses.replace(ours.spec.postprocess, pre_nms_top_k=kept, score_threshold=threshold)
    ours.spec = dataclasses.replace(ours.spec, postprocess=settings)
    return theirs, ours


@torch.inference_mode()
def test_detections_are_torchvisions(all_candidates: tuple[nn.Module, SSD], pictures: list[Path]) -> None:
    theirs, ours = all_candidates
    expected = theirs([as_torchvision_takes_it(path) for path in pictures])
    runner = TorchRunner(ours)
    assert_same(run_detector(image_samples(pictures), runner.run, runner.spec), expected)


@pytest.mark.usefixtures("shared_traces")
def test_the_exported_file_finds_what_torchvision_finds(
    all_candidates: tuple[nn.Module, SSD], pictures: list[Path], tmp_path: Path
) -> None:
    from export.onnx import export_onnx

    theirs, ours = all_candidates
    path = export_onnx(ours, tmp_path)
    with torch.inference_mode():
        expected = theirs([as_torchvision_takes_it(picture) for picture in pictures])
    runner = OnnxRuntimeRunner(path)
    assert_same(run_detector(image_samples(pictures), runner.run, runner.spec), expected)


def test_half_precision_folds_every_batch_norm_and_stays_close(folder: Path, pictures: list[Path]) -> None:
    _, ours = _pair(SSDLITE, folder)
    half = in_precision(ours, "fp16")
    assert not [module for module in half.modules() if isinstance(module, nn.BatchNorm2d)]
    convolutions = [module for module in half.modules() if isinstance(module, nn.Conv2d)]
    assert {parameter.dtype for each in convolutions for parameter in each.parameters()} == {torch.float16}
    images = torch.from_numpy(preprocess(load_image(pictures[0]), ours.spec))[None]
    with torch.inference_mode():
        for found, expected in zip(half(images), ours(images), strict=True):
            apart = float((found - expected).square().mean().sqrt() / expected.std())
            # Some sixty layers that round to 11 bits each, and in random ones nothing evens it out.
            assert 1e-5 < apart < 5e-2


# Checkpoints


def test_a_checkpoint_tells_its_network_and_needs_its_classes(folder: Path) -> None:
    _pair(SSDLITE, folder)
    path = folder / f"{SSDLITE}.pth"
    assert find_model(str(path), classes=CLASSES).network == SSDLITE
    with pytest.raises(WeightsError, match=r"predicts 3 classes, but .* has 90; give the names of its 3 classes"):
        find_model(str(path)).load()
    with pytest.raises(WeightsError, match=f"holds weights of {SSDLITE}, not of {VGG}"):
        read_network(VGG, path, CLASSES)


def test_the_tail_is_told_by_the_shapes(folder: Path) -> None:
    _pair(FULL_TAIL, folder)
    assert find_model(str(folder / f"{FULL_TAIL}.pth"), classes=CLASSES).network == FULL_TAIL


def test_a_checkpoint_of_torchvisions_training_script_is_read(tmp_path: Path) -> None:
    tensors = {"backbone.a": torch.ones(2), "backbone.b": torch.zeros(3)}
    average = {"n_averaged": torch.tensor(5), **{f"module.{name}": value + 1 for name, value in tensors.items()}}
    # What references/detection/train.py saves, its command line included.
    saved = {
        "model": tensors,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "lr_scheduler": {"last_epoch": 4},
        "args": argparse.Namespace(data_path="coco", lr=0.02, trainable_backbone_layers=None),
        "epoch": 4,
    }
    path = tmp_path / "model_4.pth"
    torch.save(saved, path)
    assert {name: value.tolist() for name, value in read_tensors(path).tensors.items()} == {
        "backbone.a": [1, 1], "backbone.b": [0, 0, 0],
    }  # fmt: skip
    torch.save(saved | {"model_ema": average}, path)
    assert {name: value.tolist() for name, value in read_tensors(path).tensors.items()} == {
        "backbone.a": [2, 2], "backbone.b": [1, 1, 1],
    }  # fmt: skip


def test_an_ssd_of_torchvisions_on_another_backbone_is_refused(tmp_path: Path) -> None:
    heads = {f"head.{kind}_head.module_list.0.bias": torch.zeros(16) for kind in ("classification", "regression")}
    path = tmp_path / "resnet.pth"
    torch.save({**heads, "backbone.body.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="an SSD of torchvision's with another backbone; ssd300_vgg16 and ssdlite"):
        find_model(str(path), classes=CLASSES)


def test_missing_and_further_tensors_are_named(folder: Path, tmp_path: Path) -> None:
    theirs, _ = _pair(SSDLITE, folder)
    state = theirs.state_dict()
    del state["backbone.extra.0.1.0.weight"]
    torch.save(state | {"backbone.extra.4.0.0.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(
        WeightsError, match=r"lacks backbone\.extra\.0\.1\.0\.weight and has the unexpected backbone\.extra\.4"
    ):
        read_network(SSDLITE, tmp_path / "odd.pth", CLASSES)


# Published weights


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A server with torchvision's SSDlite of 91 columns under a name that tells its hash; the file, and its network."""
    folder = tmp_path / "served"
    folder.mkdir()
    file = folder / "weights.pth"
    torch.save(torchvisions(SSDLITE, 90).state_dict(), file)
    file = file.rename(folder / f"ssdlite_coco-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    handler = functools.partial(_Quiet, directory=str(folder))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{httpd.server_address[1]}/{file.name}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(zoo.NETWORKS, SSDLITE, dataclasses.replace(NETWORKS[SSDLITE], checkpoint_url=url))
    yield file, SSDLITE
    httpd.shutdown()
    thread.join()
    httpd.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_published_weights_are_fetched_checked_and_converted(published: tuple[Path, str], tmp_path: Path) -> None:
    file, name = published
    path = fetch_weights(name, tmp_path / "root")
    network = read_network(name, path)
    assert network.config.class_names == NETWORKS[name].default_class_names
    assert file.name in network.spec.weights
    expected = torch.load(file)["head.classification_head.module_list.0.1.bias"]
    assert torch.equal(network.class_predictors[0].predictor.bias, expected)


def test_published_weights_with_another_hash_are_removed(published: tuple[Path, str], tmp_path: Path) -> None:
    file, name = published
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="does not begin with"):
        fetch_weights(name, tmp_path / "root")
    assert not list((tmp_path / "root").glob("*.pth"))
