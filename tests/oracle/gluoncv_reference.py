#!/usr/bin/env python
"""Write what GluonCV itself computes, for the tests in this folder to compare with.

Runs in an environment of its own (`make_reference.sh` builds it; GluonCV needs NumPy < 1.24) and imports
nothing of this project. No published weights are needed: all parameters are drawn from a fixed seed.

    gluoncv_reference.py OUT [--images FOLDER] [--only CASE ...]

What lies in OUT afterwards (N images, A anchors, C classes without background, K kept detections):

    manifest.json        versions, the image files, one entry a case; written last, so it marks a whole folder
    <case>.params        the weights under the dotted names of `save_parameters`
    <case>.legacy.params the same weights under the older prefix names of `save_params`; not for every case
    <case>.npz           x (N, 3, S, S), cls_preds (N, A, C + 1), box_preds (N, A, 4), anchors (A, 4) cx, cy, w, h
                         in input pixels, ids (N, K), scores (N, K), bboxes (N, K, 4) xyxy in input pixels
    preprocess.npz       uint8 images and what `SSDDefaultValTransform` makes of them
    voc/                 a VOC data set: XML files and small JPEG files
    voc_metric.npz       detections on it and GluonCV's average precisions
"""

import argparse
import dataclasses
import hashlib
import json
import logging
import time
import warnings
import zlib
from pathlib import Path

import cv2
import gluoncv
import mxnet as mx
import numpy as np
from gluoncv import model_zoo
from gluoncv.data import VOCDetection
from gluoncv.data.transforms.presets.ssd import SSDDefaultValTransform
from gluoncv.model_zoo.ssd.ssd import get_ssd
from gluoncv.utils.metrics.voc_detection import VOC07MApMetric, VOCMApMetric

SEED = 20180401
IMAGES_PER_CASE = 4

# Mean of the background logit over the others. Measured: above 100 detections an image, and below.
CROWDED, SPARSE = 6.0, 10.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One network with one set of random weights.

    Attributes:
        network: its name in this project; also GluonCV's, save for `resnet50_v1s`, which has no preset.
        variant: tells apart the cases of one network.
        classes: class list of a `_custom` network.
        reset_from: GluonCV's network whose classes are replaced with `reset_class`; empty: none.
        background: mean of the background logit, `CROWDED` or `SPARSE`.
        legacy: also save under the older names.
        nms: IoU threshold, candidates that enter NMS, detections kept; GluonCV's defaults.
    """

    network: str
    variant: str = ""
    classes: tuple = ()
    reset_from: str = ""
    background: float = CROWDED
    legacy: bool = False
    nms: tuple = (0.45, 400, 100)

    @property
    def name(self):
        return f"{self.network}-{self.variant}" if self.variant else self.network

    @property
    def input_size(self):
        return int(self.network.split("_")[1])


# Every backbone once under both naming schemes, since the older names differ from backbone to backbone.
CASES = (
    Case("ssd_300_vgg16_atrous_voc", legacy=True),
    Case("ssd_300_vgg16_atrous_coco"),
    Case("ssd_512_vgg16_atrous_voc"),
    Case("ssd_512_vgg16_atrous_coco", background=SPARSE),
    Case("ssd_512_resnet50_v1_voc", legacy=True),
    Case("ssd_512_resnet50_v1_coco"),
    Case("ssd_512_mobilenet1.0_voc", legacy=True),
    Case("ssd_512_mobilenet1.0_voc", variant="sparse", background=SPARSE),
    Case("ssd_512_mobilenet1.0_coco"),
    Case("ssd_512_mobilenet1.0_custom", classes=("bolt", "nut", "washer")),
    Case("ssd_512_resnet50_v1s_voc", legacy=True),
    Case("ssd_300_resnet34_v1b_voc", legacy=True),
    Case("ssd_512_resnet18_v1_voc", legacy=True),
    Case("ssd_512_resnet101_v2_voc", legacy=True),
    Case("ssd_300_mobilenet0.25_voc", legacy=True),
    Case("ssd_300_mobilenet0.25_voc", variant="sparse", background=SPARSE),
    Case("ssd_300_mobilenet0.25_voc", variant="other_nms", nms=(0.3, 120, 60)),
    # So much is suppressed that the number of candidates decides: of one class, and over several.
    Case("ssd_300_mobilenet0.25_custom", variant="one_class", classes=("thing",), background=3.0, nms=(0.2, 400, 100)),
    Case(
        "ssd_300_mobilenet0.25_custom",
        variant="three_classes",
        classes=("bolt", "nut", "washer"),
        background=3.0,
        nms=(0.1, 200, 100),
    ),
    Case(
        "ssd_300_mobilenet0.25_custom",
        variant="reset_class",
        classes=("zebra", "person", "dog"),
        reset_from="ssd_300_mobilenet0.25_voc",
        legacy=True,
    ),
)


def build(case):
    """Build GluonCV's network of a case, without weights worth keeping."""
    if case.reset_from:
        net = model_zoo.get_model(case.reset_from, pretrained=False, pretrained_base=False)
        net = initialised(net, case.input_size)
        net.reset_class(list(case.classes))
    elif "resnet50_v1s" in case.network:
        net = resnet50_v1s_ssd()
    else:
        options = {"classes": list(case.classes)} if case.classes else {}
        net = model_zoo.get_model(case.network, pretrained=False, pretrained_base=False, **options)
    net = initialised(net, case.input_size)
    net.set_nms(*case.nms)
    return net


def resnet50_v1s_ssd():
    """Put SSD on resnet50_v1s the way GluonCV's preset does on resnet50_v1."""
    return get_ssd(
        "resnet50_v1s",
        512,
        # The ReLUs that end layer 3 and layer 4.
        features=["layers3_relu17_fwd", "layers4_relu8_fwd"],
        filters=[512, 512, 256, 256],
        sizes=[51.2, 102.4, 189.4, 276.4, 363.52, 450.6, 492],
        ratios=[[1, 2, 0.5]] + [[1, 2, 0.5, 3, 1.0 / 3]] * 3 + [[1, 2, 0.5]] * 2,
        steps=[16, 32, 64, 128, 256, 512],
        classes=VOCDetection.CLASSES,
        dataset="voc",
        pretrained_base=False,
    )


def initialised(net, input_size):
    """Return `net` with every parameter allocated, which takes one forward pass."""
    net.initialize(force_reinit=True)
    net(mx.nd.zeros((1, 3, input_size, input_size)))
    return net


def draw_parameters(net, network, rng):
    """Fill every parameter so that values stay of one magnitude from layer to layer.

    Biases and shifts are a visible part of what they are added to, and all batch norm statistics differ
    from 0 and 1, so that one that is dropped, swapped or normalised with the wrong epsilon shows.
    """
    # VGG sees values up to 255 and has no batch norm; every other trunk works on values around 1.
    bias = 6.0 if "vgg" in network else 0.1
    # A residual sum grows from block to block unless its branches are damped.
    gamma = (0.4, 0.9) if "resnet" in network else (0.7, 1.3)
    for name, parameter in sorted(net._collect_params_with_prefix().items()):
        shape = parameter.shape
        if isinstance(parameter, mx.gluon.parameter.Constant):
            continue  # anchors and VGG's input scale
        if name.endswith("weight"):
            values = rng.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("bias"):
            values = rng.randn(*shape) * bias
        elif name.endswith("gamma"):
            values = rng.uniform(*gamma, shape)
        elif name.endswith(("beta", "mean")):
            values = rng.randn(*shape) * 0.1
        elif name.endswith("var"):
            values = rng.uniform(0.2, 1.8, shape)
        elif name.endswith("scale"):
            values = rng.uniform(10, 30, shape)
        else:
            raise ValueError(f"{network}: no rule to draw {name} {shape}")
        parameter.set_data(mx.nd.array(values.astype(np.float32)))


def imitate_training(net, x, background, rng):
    """Rescale the predictors on a real image, so that scores and boxes spread like a trained detector's."""
    for feature, class_predictor, box_predictor in zip(
        net.features(x), net.class_predictors, net.box_predictors, strict=True
    ):
        for predictor, target_std in ((class_predictor, 1.6), (box_predictor, 0.8)):
            weight, bias = predictor.predictor.weight, predictor.predictor.bias
            bias.set_data(mx.nd.zeros(bias.shape))
            weight.set_data(weight.data() * (target_std / float(predictor(feature).asnumpy().std())))
            values = rng.randn(*bias.shape) * 0.1
            if predictor is class_predictor:
                # Column 0 is background; the more classes, the more of its lead the softmax takes away.
                values[:: net.num_classes + 1] += background + 0.5 * np.log(net.num_classes)
            bias.set_data(mx.nd.array(values.astype(np.float32)))


def forward(net, x):
    """Run the network once; return the outputs of its heads and its detections.

    Returns:
        cls_preds (N, A, C + 1), box_preds (N, A, 4), anchors (A, 4), ids (N, K), scores (N, K) and
        bboxes (N, K, 4), all float32.
    """
    heads = {"cls_preds": [], "box_preds": [], "anchors": []}
    hooks = []
    for key, blocks in zip(heads, (net.class_predictors, net.box_predictors, net.anchor_generators), strict=True):
        for block in blocks:
            # Hooks see the very tensors that the detections come from, without a second forward pass.
            hooks.append(
                block.register_forward_hook(lambda _, __, output, kept=heads[key]: kept.append(output.asnumpy()))
            )
    ids, scores, bboxes = (output.asnumpy() for output in net(x))
    for hook in hooks:
        hook.detach()

    def joined(key, columns):
        # A head writes (N, columns x anchors a cell, H, W); the columns of an anchor lie side by side.
        levels = [level.transpose(0, 2, 3, 1).reshape(len(level), -1, columns) for level in heads[key]]
        return np.concatenate(levels, axis=1)

    return {
        "cls_preds": joined("cls_preds", net.num_classes + 1),
        "box_preds": joined("box_preds", 4),
        "anchors": np.concatenate([level.reshape(-1, 4) for level in heads["anchors"]]),
        "ids": ids[..., 0],
        "scores": scores[..., 0],
        "bboxes": bboxes,
    }


def write_case(case, out, image_files):
    """Build, fill, save and run the network of one case; return its entry of the manifest."""
    started = time.perf_counter()
    # By name, so that a case added to the table changes no other.
    rng = np.random.RandomState(zlib.crc32(case.name.encode()))
    transform = SSDDefaultValTransform(case.input_size, case.input_size)
    x = mx.nd.stack(*[transformed(transform, mx.image.imread(str(path))) for path in image_files[:IMAGES_PER_CASE]])
    net = build(case)
    draw_parameters(net, case.network, rng)
    imitate_training(net, x[:1], case.background, rng)
    outputs = forward(net, x)
    # The appended batch norms compute with 1 and must not have stored it: a reader has to ignore what is there.
    gammas = [parameter.data().asnumpy() for parameter in net.collect_params(".*gamma").values()]
    assert all(gamma.std() > 0 for gamma in gammas), f"{case.name}: the forward pass has overwritten a gamma"
    net.save_parameters(str(out / f"{case.name}.params"))
    if case.legacy:
        net.collect_params().save(str(out / f"{case.name}.legacy.params"), strip_prefix=net.prefix)
    np.savez(out / f"{case.name}.npz", x=x.asnumpy(), **outputs)
    kept = (outputs["ids"] >= 0).sum(axis=1).tolist()
    seconds = round(time.perf_counter() - started, 1)
    print(f"{case.name}: {kept} detections, scores to {outputs['scores'].max():.3f}, {seconds} s", flush=True)
    return {
        "name": case.name,
        "network": case.network,
        "class_names": list(net.classes),
        "legacy": case.legacy,
        "nms_iou_threshold": case.nms[0],
        "pre_nms_top_k": case.nms[1],
        "max_detections": case.nms[2],
        "kept": kept,
        "seconds": seconds,
    }


def transformed(transform, image):
    """Return the network input of an RGB uint8 image; the labels that GluonCV wants beside it do not matter."""
    return transform(image, np.zeros((1, 5), np.float32))[0]


# Sizes (height, width) that meet every branch of the resize rule for both input sizes: both sides smaller
# (cubic), both larger (area), one of each or one equal (linear).
IMAGE_SIZES = (
    (1, 1), (1, 900), (900, 1), (2, 3), (37, 211), (150, 150), (299, 299), (299, 301), (300, 300), (300, 200),
    (301, 301), (375, 500), (480, 640), (511, 511), (512, 512), (512, 300), (513, 513), (600, 512), (640, 427),
    (513, 2000), (1200, 1024),
)  # fmt: skip


def write_preprocess(out, image_files):
    """Write inputs and outputs of `SSDDefaultValTransform` for noise of many sizes and for image files."""
    rng = np.random.RandomState(SEED)
    arrays = {}
    for index, size in enumerate(IMAGE_SIZES):
        arrays[f"noise_{index}"] = rng.randint(0, 256, (*size, 3), dtype=np.uint8)
    for index, path in enumerate(image_files):
        arrays[f"file_{index}"] = mx.image.imread(str(path)).asnumpy()
    for input_size in (300, 512):
        transform = SSDDefaultValTransform(input_size, input_size)
        for key in [key for key in arrays if "_x" not in key]:
            arrays[f"{key}_x{input_size}"] = transformed(transform, mx.nd.array(arrays[key], dtype=np.uint8)).asnumpy()
    np.savez(out / "preprocess.npz", **arrays)


def write_voc_metric(out, count=80, input_size=300):
    """Write a VOC data set, detections on it, and what GluonCV's two VOC metrics make of them.

    Labels: 0 to 15 have objects of both kinds and detections; 16 has only difficult objects, 17 no
    detections, 18 no objects, 19 neither.
    """
    rng = np.random.RandomState(SEED)
    root = out / "voc" / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{index:06d}" for index in range(count)]
    (root / "ImageSets/Main/test.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
        write_voc_image(root, name, rng)
    logging.disable(logging.WARNING)  # GluonCV warns of each object that it leaves out
    dataset = VOCDetection(root=str(out / "voc"), splits=((2007, "test"),))
    logging.disable(logging.NOTSET)
    transform = SSDDefaultValTransform(input_size, input_size)
    # GluonCV pads the labels of a batch, and detections, with rows of -1.
    truth = np.full((count, 40, 6), -1, np.float32)
    bboxes = np.full((count, 100, 4), -1, np.float32)
    ids = np.full((count, 100), -1, np.float32)
    confidence = np.full((count, 100), -np.inf)
    for index in range(count):
        image, label = dataset[index]
        if len(label):  # the transform cannot take an image without objects
            label = transform(image, label)[1]
            truth[index, : len(label)] = label
        found = imagined_detections(truth[index, : len(label)], input_size, rng)
        rows = slice(len(found[0]))
        bboxes[index, rows], ids[index, rows], confidence[index, rows] = found
    # Ranks as scores: no two are equal, since GluonCV leaves the order of equal ones to an unstable sort.
    real = ids >= 0
    scores = np.full((count, 100), -1, np.float32)
    scores[real] = np.linspace(0.0101, 0.9999, real.sum())[confidence[real].argsort().argsort()]
    order = np.argsort(-scores, axis=1)
    scores, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
    bboxes = np.take_along_axis(bboxes, order[..., None], axis=1)

    results = {}
    for key, metric_class in (("voc07", VOC07MApMetric), ("area", VOCMApMetric)):
        metric = metric_class(iou_thresh=0.5, class_names=list(VOCDetection.CLASSES))
        for start in range(0, count, 16):
            batch = slice(start, start + 16)
            metric.update(
                # GluonCV's evaluation script clips to the input size, which it reads as the input's height.
                [mx.nd.array(bboxes[batch]).clip(0, input_size)],
                [mx.nd.array(ids[batch, :, None])],
                [mx.nd.array(scores[batch, :, None])],
                [mx.nd.array(truth[batch, :, :4])],
                [mx.nd.array(truth[batch, :, 4:5])],
                [mx.nd.array(truth[batch, :, 5:6])],
            )
        metric_names, values = metric.get()
        assert metric_names == [*VOCDetection.CLASSES, "mAP"]
        results[f"{key}_per_class"] = np.array(values[:-1])
        results[f"{key}_mean"] = np.array(values[-1])
    np.savez(
        out / "voc_metric.npz", bboxes=bboxes, scores=scores, ids=ids, truth=truth,
        input_size=np.array(input_size), image_ids=np.array(names), **results,
    )  # fmt: skip
    print(f"VOC metric: {real.sum()} detections, mAP {results['voc07_mean']:.4f} and {results['area_mean']:.4f}")


def write_voc_image(root, name, rng):
    """Write one image and its annotation file; coordinates count from 1, as VOC's do."""
    height, width = rng.randint(180, 520, 2)
    cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), np.full((height, width, 3), 127, np.uint8))
    objects = []
    for _ in range(rng.choice([0, 1, 2, 3, 8, 20])):
        xmin, ymin = (rng.randint(1, side - 12) for side in (width, height))
        # A third of the boxes end at the right and bottom edge or nearly so.
        far = rng.rand() < 0.3
        xmax, ymax = (
            side - rng.randint(0, 3) if far else rng.randint(start + 10, side + 1)
            for start, side in ((xmin, width), (ymin, height))
        )
        # GluonCV leaves out some of these: one pixel before the image, one and two behind it, one pixel wide.
        odd = rng.rand()
        xmin = 0 if odd < 0.03 else xmin
        ymax = height + rng.randint(1, 3) if 0.03 < odd < 0.08 else ymax
        xmax = xmin if 0.08 < odd < 0.1 else xmax
        label = rng.randint(0, 18)
        is_difficult = label == 16 or rng.rand() < 0.2
        objects.append(
            f"<object><name>{VOCDetection.CLASSES[label]}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{int(is_difficult)}</difficult><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
            f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
        )
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size><segmented>0</segmented>"
        f"{''.join(objects)}</annotation>\n"
    )


def imagined_detections(truth, input_size, rng):
    """Make up the detections of one image, some of them reaching outside.

    Args:
        truth: (M, 6) x1, y1, x2, y2 in input pixels, label, is difficult.

    Returns:
        Boxes (K, 4) in input pixels, labels (K,) and confidence (K,) of any range; K is at most 100.
    """
    rows = []
    for x1, y1, x2, y2, label, _ in truth:
        # Near copies of an object: exact, good, about IoU 0.5, poor.
        for jitter in rng.choice([0.0, 0.03, 0.12, 0.17, 0.3], 0 if label == 17 else rng.randint(0, 4)):
            box = [x1, y1, x2, y2] + rng.randn(4) * jitter * [x2 - x1, y2 - y1, x2 - x1, y2 - y1]
            rows.append((*box, label if rng.rand() < 0.85 else rng.randint(0, 17), rng.rand() - 2 * jitter))
    for _ in range(rng.choice([0, 0, 5, 40])):
        start, size = rng.uniform(-0.2, 0.9, 2) * input_size, rng.uniform(0.05, 0.6, 2) * input_size
        rows.append((*start, *(start + size), rng.choice([*range(17), 18]), rng.rand() - 0.4))
    # One image in ten has no detection at all.
    count = 0 if rng.rand() < 0.1 else min(len(rows), 100)
    rows = np.array(rows).reshape(-1, 6)[:count]
    return rows[:, :4], rows[:, 4], rows[:, 5]


def synthetic_images(out):
    """Write seeded images, smooth with some noise, for machines that have no photographs; return their paths."""
    rng = np.random.RandomState(SEED)
    folder = out / "synthetic_images"
    folder.mkdir(exist_ok=True)
    paths = []
    for index, (height, width) in enumerate([(480, 640), (427, 640), (640, 480), (333, 500), (240, 320), (768, 1024)]):
        coarse = rng.randint(0, 256, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += rng.randint(-12, 13, image.shape, dtype=np.int16)
        paths.append(folder / f"{index}.png")
        cv2.imwrite(str(paths[-1]), image.clip(0, 255).astype(np.uint8))
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=Path, help="a folder of JPEG photographs; without it images are made up")
    parser.add_argument("--only", nargs="+", metavar="CASE", default=[case.name for case in CASES])
    arguments = parser.parse_args()
    # MXNet warns that it has to infer the input's type, once a network.
    warnings.filterwarnings("ignore", message="Cannot decide type")
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    if arguments.images:
        image_files = sorted(arguments.images.glob("*.jpg"))[:8]
        if len(image_files) < IMAGES_PER_CASE:
            parser.error(f"{arguments.images} holds {len(image_files)} .jpg files; {IMAGES_PER_CASE} are needed")
    else:
        print("no folder of photographs was given; the reference uses synthetic images")
        image_files = synthetic_images(out)

    started = time.perf_counter()
    write_preprocess(out, image_files)
    write_voc_metric(out)
    entries = [write_case(case, out, image_files) for case in CASES if case.name in arguments.only]
    manifest = {
        "script_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "versions": {module.__name__: module.__version__ for module in (gluoncv, mx, np, cv2)},
        "photographs": arguments.images is not None,
        # Made-up images by their path in OUT, which may be moved; photographs stay where they are.
        "image_files": [str(path.resolve() if arguments.images else path.relative_to(out)) for path in image_files],
        "seconds": round(time.perf_counter() - started),
        "cases": entries,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"reference written to {out} in {manifest['seconds']} s")


if __name__ == "__main__":
    main()
