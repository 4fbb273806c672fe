#!/usr/bin/env python
"""Write what GluonCV computes while training, for `test_oracle_training.py` to compare with.

Runs in the environment of `gluoncv_reference.py` and imports nothing of this project.

    gluoncv_training_reference.py OUT [--only PART ...]

What lies in OUT afterwards (N images, M boxes, A anchors, C classes without background, R runs). Arrays of a
case are called by its name, an underscore and what follows; each file also holds the `names` of its cases
and `script_sha256`, which version of this script wrote it:

    targets.npz    anchors (A, 4) cx, cy, w, h; pictures (N,) their names; boxes (N, M, 4) xyxy in input pixels;
                   labels (N, M), -1 pads; cls_targets (N, A); box_targets (N, A, 4); at_threshold (.., 2), picture
                   and anchor where the best IoU is exactly 0.5
    loss.npz       cls_preds (N, A, C + 1), box_preds and box_targets (N, A, 4), cls_targets (N, A), cls_losses (N,),
                   box_losses (N,), cls_gradients, box_gradients, devices
    optimizer.npz  momentum, wd and, of each of `tensors`, <tensor>_start, <tensor>_gradients (steps, ...) and
                   <tensor>_values (steps, ...) after each step; lrs (steps,) are shared
    colour.npz     colours (K, 3) RGB 0..255 and outputs (R, K, 3); one case, without a name
    geometry.npz   image_size (height, width), boxes (M, 4) xyxy in image pixels, input_size; of each run canvas (R, 2)
                   height, width, offset (R, 2) top, left, crop (R, 4) left, top, width, height, is_flipped,
                   interpolation, is_kept (R, M), final_boxes (R, M, 4) xyxy in input pixels
"""

import argparse
import contextlib
import hashlib
import multiprocessing
import random
import time
import warnings
import zlib
from pathlib import Path
from unittest import mock

import mxnet as mx
import numpy as np
from gluoncv import model_zoo
from gluoncv.data.transforms import bbox as tbbox
from gluoncv.data.transforms import experimental
from gluoncv.data.transforms import image as timage
from gluoncv.data.transforms.presets.ssd import SSDDefaultTrainTransform
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.nn.bbox import BBoxCenterToCorner
from mxnet import autograd, gluon

SEED = 20180401


def rng_for(name):
    """Return the generator of one case; by name, so that a case added changes no other."""
    return np.random.RandomState(zlib.crc32(name.encode()) ^ SEED)


def seed_gluoncv(name):
    """Seed the two generators that GluonCV's transforms draw from, in turn."""
    seed = zlib.crc32(name.encode()) ^ SEED
    random.seed(seed)
    np.random.seed(seed)


def save(path, **arrays):
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    np.savez_compressed(path, script_sha256=np.array(digest), **arrays)


# Steps, sizes and the number of classes all differ among these.
PRESETS = {
    "ssd_300_vgg16_atrous_voc": (300, 20),
    "ssd_512_vgg16_atrous_voc": (512, 20),
    "ssd_512_resnet50_v1_coco": (512, 80),
}


def write_targets(path):
    """Let the target generator that the training transform builds assign pictures one at a time."""
    arrays = {"names": np.array(list(PRESETS))}
    for preset, (side, classes) in PRESETS.items():
        rng = rng_for(preset)
        anchors = anchors_of(preset, side)
        corners = BBoxCenterToCorner(split=False)(anchors.reshape((-1, 4))).asnumpy()
        generate = SSDDefaultTrainTransform(side, side, anchors)._target_generator
        pictures = {name: boxes.astype(np.float32) for name, boxes in pictures_of(corners, side, rng).items()}
        most = max(len(boxes) for boxes in pictures.values())
        padded_boxes = np.zeros((len(pictures), most, 4), np.float32)
        padded_labels = np.full((len(pictures), most), -1)
        cls_targets = np.zeros((len(pictures), len(corners)), np.int16)
        box_targets = np.zeros((len(pictures), len(corners), 4), np.float32)
        at_threshold = []
        for row, (name, boxes) in enumerate(pictures.items()):
            labels = rng.randint(0, classes, len(boxes))
            if name.startswith("one_class"):
                labels[:] = labels[0]
            padded_boxes[row, : len(boxes)], padded_labels[row, : len(boxes)] = boxes, labels
            # A row of a label as the transform takes it apart; it is float64 until `mx.nd.array`.
            bbox = np.concatenate([boxes, labels[:, None]], axis=1)
            gt_boxes, gt_ids = mx.nd.array(bbox[None, :, :4]), mx.nd.array(bbox[None, :, 4:5])
            found = generate(anchors, None, gt_boxes, gt_ids)
            cls_targets[row], box_targets[row] = found[0][0].asnumpy(), found[1][0].asnumpy()
            assert np.isfinite(box_targets[row]).all(), name
            if "threshold" in name:
                best = mx.nd.contrib.box_iou(mx.nd.array(corners), gt_boxes[0]).asnumpy().max(axis=1)
                at_threshold += [(row, anchor) for anchor in np.flatnonzero(best == np.float32(0.5))]
        assert len(at_threshold) >= 10, f"{preset}: {len(at_threshold)} anchors have an IoU of exactly 0.5"
        positives = (cls_targets > 0).sum(axis=1)
        print(f"{preset}: {len(pictures)} pictures, {positives.min()} to {positives.max()} positives", flush=True)
        values = {
            "anchors": anchors.asnumpy().reshape(-1, 4), "pictures": np.array(list(pictures)), "boxes": padded_boxes,
            "labels": padded_labels, "cls_targets": cls_targets, "box_targets": box_targets,
            "at_threshold": np.array(at_threshold),
        }  # fmt: skip
        arrays.update({f"{preset}_{key}": value for key, value in values.items()})
    save(path, **arrays)


def anchors_of(preset, side):
    """Return the anchors (1, A, 4) as the training script gets them, from one pass in training mode."""
    net = model_zoo.get_model(preset, pretrained=False, pretrained_base=False)
    net.initialize()
    with autograd.train_mode():
        return net(mx.nd.zeros((1, 3, side, side)))[2]


def pictures_of(corners, side, rng):
    """Make up the boxes of the pictures of one preset, name -> (M, 4) xyxy in input pixels."""
    pictures = {}
    for index, count in enumerate((1, 1, 2, 3, 5, 8, 13, 21, 34, 60)):
        pictures[f"random_{index}"] = random_boxes(count, 4, side, side, rng)
    for index in range(3):
        pictures[f"crowded_{index}"] = around(random_boxes(1, side / 5, side / 2, side, rng), 40, 0.2, rng).clip(
            0, side
        )
        # Whole pixels, which many boxes and anchors share: equal overlaps without equal boxes.
        pictures[f"whole_pixels_{index}"] = np.round(random_boxes(25, 8, side, side, rng)) + [0, 0, 1, 1]
    pictures["whole_image"] = np.array([[0, 0, side, side]])
    pictures["one_class_identical"] = np.repeat(random_boxes(1, side / 4, side / 2, side, rng), 6, axis=0)
    pictures["identical"] = np.repeat(random_boxes(1, side / 4, side / 2, side, rng), 6, axis=0)
    pictures["identical_among_others"] = np.concatenate(
        [np.repeat(random_boxes(2, 30, side / 2, side, rng), 3, axis=0), random_boxes(6, 8, side, side, rng)]
    )
    for index in range(3):
        equal = corners[rng.choice(len(corners), 12, replace=False)]
        pictures[f"equal_to_anchors_{index}"] = np.concatenate([equal, equal[:4]])
    # Any anchor around such a box overlaps it exactly as much as all others of its size do.
    pictures["tiny_in_the_same_anchors"] = random_boxes(30, 1, 3, side / 12, rng) + side / 2
    pictures["tiny_on_a_grid"] = tiny_on_a_grid(side)
    # Anchors that fit are few here, and far fewer than the boxes.
    pictures["more_than_fit"] = around(np.array([[0.0, 0.0, side, side]]), 60, 0.05, rng)
    pictures["more_than_fit_in_a_corner"] = around(np.array([[2.0, 2.0, 20.0, 20.0]]), 60, 0.1, rng)
    # The boxes of a picture that no crop fitted are not clipped to it.
    pictures["reaching_outside"] = random_boxes(20, 30, side, side, rng) + rng.uniform(-0.4, 0.4, (20, 1)) * side
    outside = np.array([[3.0, 3.0, 3.5, 3.5]]) * side
    inside = random_boxes(4, 20, side / 2, side, rng)
    pictures["outside_first"] = np.concatenate([outside, inside])
    pictures["outside_later"] = np.concatenate([inside, outside])
    pictures["outside_alone"] = outside
    for index in range(3):
        pictures[f"at_threshold_{index}"] = boxes_at_threshold(corners, side, 8, rng)
    return pictures


def random_boxes(count, smallest, largest, side, rng):
    """Draw boxes inside a square: sides from `smallest` to `largest` pixels, small ones as likely as large."""
    sizes = np.exp(rng.uniform(np.log(smallest), np.log(min(largest, side)), (count, 2)))
    starts = rng.uniform(0, 1, (count, 2)) * (side - sizes)
    return np.concatenate([starts, starts + sizes], axis=1)


def around(box, count, spread, rng):
    """Draw boxes about one (1, 4); their corners deviate by `spread` of its smaller side."""
    deviation = min(box[0, 2] - box[0, 0], box[0, 3] - box[0, 1]) * spread
    return box + rng.uniform(-1, 1, (count, 4)) * deviation


def tiny_on_a_grid(side):
    """Return 2 px boxes about the middles of 3 x 3 cells, each as far from the anchors around it as from others."""
    x, y = np.meshgrid(side / 2 + np.arange(-32, 33, 32.0), side / 2 + np.arange(-32, 33, 32.0))
    return np.stack([x - 1, y - 1, x + 1, y + 1], axis=-1).reshape(-1, 4)


def boxes_at_threshold(corners, side, count, rng):
    """Find boxes whose IoU with some anchor is exactly 0.5 in float32, while another fits better.

    Only then does it matter on which side of the threshold 0.5 lies: the best anchor is matched anyway.
    """
    inside = corners[(corners >= 0).all(axis=1) & (corners <= side).all(axis=1)]
    hosts = inside[rng.choice(len(inside), 3000)]
    sizes = hosts[:, 2:] - hosts[:, :2]
    share = rng.uniform(0.55, 0.95, len(hosts))
    # A box inside its host, of half its area.
    sizes = sizes * np.stack([share, 0.5 / share], axis=1)
    starts = hosts[:, :2] + rng.uniform(0, 1, sizes.shape) * (hosts[:, 2:] - hosts[:, :2] - sizes)
    boxes = np.concatenate([starts, starts + sizes], axis=1).astype(np.float32)
    found = []
    for box in boxes:
        ious = mx.nd.contrib.box_iou(mx.nd.array(corners), mx.nd.array(box[None])).asnumpy()
        if (ious == np.float32(0.5)).any() and ious.max() > 0.55:
            found.append(box)
        if len(found) == count:
            break
    assert len(found) == count, f"{len(found)} boxes at the threshold, not {count}"
    return np.array(found)


# Name: images, anchors, classes, standard deviation of the logits, positives of each image, devices.
LOSS_CASES = {
    "one_image": (1, 12, 3, 1.0, (2,), 1),
    "small_logits": (4, 800, 20, 0.05, (3, 8, 1, 20), 1),
    "usual_logits": (4, 2000, 20, 2.0, (3, 40, 1, 12), 1),
    "large_logits": (3, 500, 20, 30.0, (3, 8, 60), 1),
    "many_classes": (2, 1500, 80, 2.0, (5, 90), 1),
    "images_without_positives": (5, 600, 20, 2.0, (0, 7, 0, 0, 31), 1),
    "few_negatives": (3, 24, 3, 1.0, (7, 20, 6), 1),
    "all_positive": (2, 16, 3, 1.0, (16, 2), 1),
    "no_positives": (2, 50, 20, 2.0, (0, 0), 1),
    "two_devices": (4, 400, 20, 2.0, (0, 9, 30, 2), 2),
}


def write_loss(path):
    """Compute losses and their gradients; a batch of several devices is passed as the training script splits it."""
    arrays = {"names": np.array(list(LOSS_CASES))}
    for name, (count, anchors, classes, spread, positives, devices) in LOSS_CASES.items():
        rng = rng_for(name)
        cls_targets = np.zeros((count, anchors), np.float32)
        for row, number in enumerate(positives):
            where = rng.choice(anchors, number, replace=False)
            cls_targets[row, where] = rng.randint(1, classes + 1, number)
        box_targets = (rng.randn(count, anchors, 4) * 2 * (cls_targets > 0)[..., None]).astype(np.float32)
        # From the quadratic to the linear part of the smooth L1.
        box_preds = (box_targets + rng.randn(count, anchors, 4) * 1.5).astype(np.float32)
        cls_preds = logits_with_clear_negatives(cls_targets, classes, spread, rng)
        inputs = [mx.nd.array(value) for value in (cls_preds, box_preds, cls_targets, box_targets)]
        for prediction in inputs[:2]:
            prediction.attach_grad()
        with autograd.record():
            parts = [[part for part in value.split(devices, axis=0)] if devices > 1 else [value] for value in inputs]
            sum_losses, cls_losses, box_losses = SSDMultiBoxLoss()(*parts)
            autograd.backward(sum_losses)
        joined = [
            np.concatenate([part.asnumpy().reshape(-1) for part in losses]) for losses in (cls_losses, box_losses)
        ]
        values = {
            "cls_preds": cls_preds, "box_preds": box_preds, "cls_targets": cls_targets, "box_targets": box_targets,
            "cls_losses": joined[0], "box_losses": joined[1], "cls_gradients": inputs[0].grad.asnumpy(),
            "box_gradients": inputs[1].grad.asnumpy(), "devices": np.array(devices),
        }  # fmt: skip
        arrays.update({f"{name}_{key}": value for key, value in values.items()})
    save(path, **arrays)


def logits_with_clear_negatives(cls_targets, classes, spread, rng):
    """Draw logits until the last hard negative of each image leads the next anchor by more than a rounding.

    Otherwise a rounding decides which of two anchors has a gradient.
    """
    while True:
        logits = (rng.randn(*cls_targets.shape, classes + 1) * spread).astype(np.float32)
        wide = logits.astype(np.float64)
        losses = np.log(np.exp(wide - wide[..., :1]).sum(axis=-1))  # cross entropy of background
        gaps = []
        for loss, target in zip(losses, cls_targets, strict=True):
            ranked = np.sort(loss[target == 0])[::-1]
            wanted = 3 * int((target > 0).sum())
            if 0 < wanted < len(ranked):
                gaps.append((ranked[wanted - 1] - ranked[wanted]) / ranked[wanted])
        if all(gap > 1e-5 for gap in gaps):
            return logits


# Tensors of several shapes; the last two are the one number of a hand calculation and a gradient of zero.
OPTIMIZER_SHAPES = {"weight": (8, 3, 3, 3), "bias": (8,), "scale": (1, 16, 1, 1), "number": (1,), "unused": (4,)}
# Name: momentum and weight decay. The first has what the training script uses.
OPTIMIZER_CASES = {"usual": (0.9, 5e-4), "strong_decay": (0.9, 0.1), "little_momentum": (0.5, 5e-4)}
LEARNING_RATES = [0.05] * 12 + [0.005] * 9 + [0.0005] * 9


def write_optimizer(path):
    """Step through gluon's trainer, as the training script does, with gradients that are given."""
    arrays = {
        "lrs": np.array(LEARNING_RATES), "tensors": np.array(list(OPTIMIZER_SHAPES)),
        "names": np.array(list(OPTIMIZER_CASES)),
    }  # fmt: skip
    for setting, (momentum, wd) in OPTIMIZER_CASES.items():
        rng = rng_for(setting)
        parameters, gradients, values = {}, {}, {name: [] for name in OPTIMIZER_SHAPES}
        for name, shape in OPTIMIZER_SHAPES.items():
            start = rng.randn(*shape).astype(np.float32)
            drawn = rng.randn(len(LEARNING_RATES), *shape).astype(np.float32)
            gradients[name] = np.full_like(drawn, 7) if name == "number" else drawn * (name != "unused")
            parameters[name] = gluon.Parameter(name, shape=shape)
            parameters[name].initialize()
            parameters[name].set_data(mx.nd.array(start))
            arrays[f"{setting}_{name}_start"], arrays[f"{setting}_{name}_gradients"] = start, gradients[name]
        trainer = gluon.Trainer(parameters, "sgd", {"learning_rate": LEARNING_RATES[0], "momentum": momentum, "wd": wd})
        for step, lr in enumerate(LEARNING_RATES):
            trainer.set_learning_rate(lr)
            with autograd.record():
                # The gradient of this sum is what is multiplied with.
                loss = [(value.data() * mx.nd.array(gradients[name][step])).sum() for name, value in parameters.items()]
            autograd.backward(loss)
            trainer.step(1)
            for name, value in parameters.items():
                values[name].append(value.data().asnumpy())
        arrays.update({f"{setting}_{name}_values": np.stack(value) for name, value in values.items()})
        arrays[f"{setting}_momentum"], arrays[f"{setting}_wd"] = np.array(momentum), np.array(wd)
    save(path, **arrays)


# Black shows what is added, grey what saturation leaves alone, the others each weight of the matrices.
COLOURS = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [120, 120, 120], [210, 140, 60], [255, 255, 255]]
COLOUR_RUNS = 4000


def write_colour(path):
    """Distort a picture of a few colours again and again."""
    seed_gluoncv("colour")
    picture = mx.nd.array([COLOURS], dtype="uint8")
    outputs = [experimental.image.random_color_distort(picture).asnumpy()[0] for _ in range(COLOUR_RUNS)]
    save(path, colours=np.array(COLOURS), outputs=np.stack(outputs))


# Name: image size (height, width), input size, boxes in image pixels, runs. Sizes are small, for the time that
# pixels take; what is drawn depends on proportions, and on whole pixels most where there are few of them.
# Small boxes are slow, since hardly any crop overlaps them enough.
GEOMETRY_CASES = {
    "one_small": ((120, 160), 32, [[70, 40, 82, 60]], 400),
    "one_large": ((150, 100), 48, [[8, 12, 93, 140]], 800),
    "small_and_large": ((90, 120), 32, [[10, 10, 110, 80], [60, 30, 70, 42]], 400),
    "many": ((160, 120), 64, 20, 300),
    "few_pixels": ((11, 14), 32, [[1.0, 0.5, 12.5, 10.0]], 1500),
    "none": ((60, 80), 32, [], 2000),
    # Its centre is outside the image, so that no crop keeps it, unless the image was expanded.
    "outside": ((60, 80), 32, [[-50, -20, 10, 15]], 150),
}


def write_geometry(path):
    """Run the whole training transform and note what each of its steps drew."""
    # A process for each core; forked ones would share MXNet's threads, which do not survive that.
    with multiprocessing.get_context("spawn").Pool() as pool:
        cases = pool.map(geometry_of, GEOMETRY_CASES, chunksize=1)
    arrays = {f"{name}_{key}": value for name, case in zip(GEOMETRY_CASES, cases, strict=True) for key, value in case}
    save(path, names=np.array(list(GEOMETRY_CASES)), **arrays)


def geometry_of(name):
    """Run one case; return the pairs of a key and an array that describe it."""
    (height, width), input_size, boxes, runs = GEOMETRY_CASES[name]
    if isinstance(boxes, int):
        boxes = random_boxes(boxes, 8, 60, min(height, width), rng_for(name))
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    # Columns after the fourth stay with their box; GluonCV's labels stand there.
    label = np.concatenate([boxes, np.arange(len(boxes))[:, None]], axis=1)
    transform = SSDDefaultTrainTransform(input_size, input_size)
    picture = mx.nd.zeros((height, width, 3), dtype="uint8")
    seed_gluoncv(name)
    drawn = [one_run(transform, picture, label) for _ in range(runs)]
    is_kept = np.zeros((runs, len(boxes)), bool)
    final_boxes = np.full((runs, len(boxes), 4), np.nan)
    for row, run in enumerate(drawn):
        indices = run.pop("kept").astype(int)
        is_kept[row, indices] = True
        final_boxes[row, indices] = run.pop("boxes")
    return [
        *((key, np.array([run[key] for run in drawn])) for key in drawn[0]),
        ("is_kept", is_kept), ("final_boxes", final_boxes), ("boxes", boxes),
        ("image_size", np.array((height, width))), ("input_size", np.array(input_size)),
    ]  # fmt: skip


def one_run(transform, picture, label):
    """Apply the transform once.

    Returns:
        The arrays of `geometry.npz` for this run, save that `kept` holds (K,) indices and `boxes`,
        (K, 4), only what was kept.
    """
    height, width = picture.shape[:2]
    # What stands for an expansion that was not tried.
    calls = {"random_expand": (None, (0, 0, width, height))}
    interpolations = []
    resize = timage.imresize

    def watched_resize(*arguments, interp):
        interpolations.append(interp)
        return resize(*arguments, interp=interp)

    with contextlib.ExitStack() as stack:
        for module, name in (
            (timage, "random_expand"), (experimental.bbox, "random_crop_with_constraints"),
            (timage, "random_flip"), (tbbox, "flip"),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(module, name, watch(getattr(module, name), calls)))
        stack.enter_context(mock.patch.object(timage, "imresize", watched_resize))
        _, result = transform(picture, label)
    left, top, canvas_width, canvas_height = calls["random_expand"][1]
    return {
        "canvas": (canvas_height, canvas_width),
        "offset": (top, left),
        "crop": calls["random_crop_with_constraints"][1],
        "is_flipped": calls["random_flip"][1][0],
        "interpolation": interpolations[0],
        "kept": result[:, 4],
        "boxes": calls["flip"][:, :4],
    }


def watch(function, results):
    """Wrap a function so that its last result is found in `results` under its name."""

    def watched(*arguments, **keywords):
        results[function.__name__] = function(*arguments, **keywords)
        return results[function.__name__]

    return watched


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    # MXNet warns that it has to infer the input's type, once a network.
    warnings.filterwarnings("ignore", message="Cannot decide type")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        started = time.perf_counter()
        PARTS[name](arguments.out / f"{name}.npz")
        print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)


PARTS = {
    "targets": write_targets,
    "loss": write_loss,
    "optimizer": write_optimizer,
    "colour": write_colour,
    "geometry": write_geometry,
}

if __name__ == "__main__":
    main()
