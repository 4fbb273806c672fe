"""Targets, loss, optimizer and augmentation against GluonCV's own.

What is computed is compared number by number. What is drawn comes from other generators here than
there, so only its distribution can be the same: many runs of both sides are compared statistic by
statistic, with seeds fixed on both, so that a test that passes once passes always.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssd_train.training.augment import sample_colour, sample_geometry
from ssd_train.training.loss import multibox_loss
from ssd_train.training.optimizer import MXNetSGD
from ssd_train.training.targets import assign_targets

pytestmark = pytest.mark.oracle

SCRIPT = Path(__file__).parent / "gluoncv_training_reference.py"

Arrays = dict[str, NDArray[Any]]


def read(folder: Path, part: str) -> Arrays:
    with np.load(folder / "training" / f"{part}.npz") as file:
        arrays = dict(file)
    # An old reference would pass or fail for what the script no longer does.
    digest = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()
    assert arrays["script_sha256"] == digest, f"{part}.npz was written by another version of {SCRIPT.name}"
    return arrays


def cases(arrays: Arrays) -> Iterator[tuple[str, Arrays]]:
    """Yield the name of each case and its arrays, without the name before theirs."""
    for name in arrays["names"].tolist():
        yield name, {key.removeprefix(f"{name}_"): value for key, value in arrays.items() if key.startswith(f"{name}_")}


# --- targets ---

# Absolute, and relative where an offset is above 1. GluonCV takes an anchor's centre and size from its corners
# again, which float32 rounds to 3e-5 px at 512 px; a tenth of an anchor is the unit. 4e-6 is seen.
OFFSET_TOLERANCE = 1e-5
# Pictures that are assigned together, one more without boxes among them.
BATCH = 6
# What stands in rows of padding, by turns: nothing, GluonCV's own padding, and a box that would match if it counted.
PADDINGS = ((0, 0, 0, 0), (-1, -1, -1, -1), (0, 0, 300, 300))


@pytest.fixture(scope="module")
def targets(oracle_dir: Path) -> Arrays:
    return read(oracle_dir, "targets")


@pytest.mark.parametrize("preset", ["ssd_300_vgg16_atrous_voc", "ssd_512_vgg16_atrous_voc", "ssd_512_resnet50_v1_coco"])
def test_targets_are_gluoncv_s(targets: Arrays, preset: str) -> None:
    reference = dict(cases(targets))[preset]
    anchors = torch.from_numpy(reference["anchors"])
    wrong = []
    for number, first in enumerate(range(0, len(reference["boxes"]), BATCH)):
        rows = np.arange(first, min(first + BATCH, len(reference["boxes"])))
        padding = np.float32(PADDINGS[number % len(PADDINGS)])
        # GluonCV assigned them one at a time, so nothing may depend on the others.
        most = (reference["labels"][rows] >= 0).sum(axis=1).max()
        labels = np.concatenate([reference["labels"][rows, :most], np.full((1, most), -1)])
        boxes = np.concatenate([reference["boxes"][rows, :most], np.zeros((1, most, 4), np.float32)])
        boxes[labels < 0] = padding
        ours = assign_targets(torch.from_numpy(boxes), torch.from_numpy(labels), anchors)
        cls_targets, box_targets = (value.numpy() for value in ours)
        assert cls_targets.dtype == np.int64 and box_targets.dtype == np.float32
        # GluonCV gives a picture without boxes infinite targets; here it is background by intent.
        assert not cls_targets[-1].any() and not box_targets[-1].any()
        for ours_cls, ours_box, row in zip(cls_targets[:-1], box_targets[:-1], rows, strict=True):
            picture, theirs_cls, theirs_box = (
                reference[key][row] for key in ("pictures", "cls_targets", "box_targets")
            )
            wrong += [f"{picture}: class at anchor {index}" for index in np.flatnonzero(ours_cls != theirs_cls)]
            allowed = OFFSET_TOLERANCE * np.maximum(1, np.abs(theirs_box))
            is_off = ~(np.abs(ours_box - theirs_box) <= allowed).all(axis=1)
            wrong += [f"{picture}: offsets at anchor {index}" for index in np.flatnonzero(is_off)]
    assert not wrong, f"{len(wrong)} differ: {', '.join(wrong[:8])}"


def test_the_pictures_meet_every_rule_of_matching(targets: Arrays) -> None:
    """Without this the test above could agree on easy pictures."""
    for _, reference in cases(targets):
        rows = {name: row for row, name in enumerate(reference["pictures"].tolist())}
        positives = (reference["cls_targets"] > 0).sum(axis=1)
        counts = (reference["labels"] >= 0).sum(axis=1)
        # An overlap of exactly 0.5 matches, on anchors that only this rule matches.
        row, anchor = reference["at_threshold"].T
        assert (reference["cls_targets"][row, anchor] > 0).all()
        assert positives[rows["tiny_in_the_same_anchors"]] > counts[rows["tiny_in_the_same_anchors"]], "no ties"
        assert positives[rows["outside_alone"]] == len(reference["anchors"])
        assert positives[rows["outside_first"]] > positives[rows["outside_later"]]
        assert (positives[[rows["random_0"], rows["random_9"]]] > 0).all()


# --- loss ---

# Both sides sum up to 2000 cross entropies in float32, in another order: 3e-7 is seen.
LOSS_TOLERANCE = 1e-5


def test_losses_and_gradients_are_gluoncv_s(oracle_dir: Path) -> None:
    for name, reference in cases(read(oracle_dir, "loss")):
        devices = int(reference["devices"])
        cls_logits, box_offsets = (
            torch.from_numpy(reference[key]).requires_grad_() for key in ("cls_preds", "box_preds")
        )
        cls_targets = torch.from_numpy(reference["cls_targets"]).long()
        box_targets = torch.from_numpy(reference["box_targets"])
        # Parts of a batch are all divided by what is positive in the whole of it.
        num_positives = max(1.0, float((cls_targets > 0).sum())) if devices > 1 else None
        parts = zip(
            *(value.chunk(devices) for value in (cls_logits, box_offsets, cls_targets, box_targets)), strict=True
        )
        ours = torch.stack([torch.stack(multibox_loss(*part, num_positives=num_positives)) for part in parts]).sum(
            dim=0
        )
        ours.sum().backward()
        theirs = [reference[key].sum(dtype=np.float64) for key in ("cls_losses", "box_losses")]
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=LOSS_TOLERANCE, err_msg=name)
        for key, prediction in (("cls_gradients", cls_logits), ("box_gradients", box_offsets)):
            assert prediction.grad is not None
            # A hard negative too many or too few has a gradient of the largest magnitude.
            allowed = LOSS_TOLERANCE * np.abs(reference[key]).max()
            np.testing.assert_allclose(
                prediction.grad.numpy(), reference[key], rtol=0, atol=allowed, err_msg=f"{name} {key}"
            )


# --- optimizer ---

# Of the largest value: 30 steps in float32 round differently where a product is added in one step or two.
STEP_TOLERANCE = 1e-6


def trajectories(optimizer_class: type[torch.optim.Optimizer], reference: Arrays, lrs: NDArray[Any]) -> Arrays:
    """Return the values of each tensor after each step, (steps, ...)."""
    names = [key.removesuffix("_start") for key in reference if key.endswith("_start")]
    tensors = {name: torch.from_numpy(reference[f"{name}_start"].copy()).requires_grad_() for name in names}
    settings = {"momentum": float(reference["momentum"]), "weight_decay": float(reference["wd"])}
    optimizer = optimizer_class(tensors.values(), lr=float(lrs[0]), **settings)  # type: ignore[call-arg]
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for step, lr in enumerate(lrs):
        optimizer.param_groups[0]["lr"] = float(lr)
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(reference[f"{name}_gradients"][step])
        optimizer.step()
        for name, tensor in tensors.items():
            values[name].append(tensor.detach().numpy().copy())
    return {name: np.stack(steps) for name, steps in values.items()}


def largest_difference(ours: Arrays, reference: Arrays) -> float:
    """Return the largest difference of any tensor at any step, as a fraction of that tensor's largest value."""
    differences = []
    for name, values in ours.items():
        theirs = reference[f"{name}_values"]
        assert values.shape == theirs.shape
        differences.append(np.abs(values - theirs).max() / np.abs(theirs).max())
    return float(max(differences))


def test_steps_are_those_of_mxnet_through_decays_of_the_learning_rate(oracle_dir: Path) -> None:
    arrays = read(oracle_dir, "optimizer")
    for name, reference in cases(arrays):
        ours = trajectories(MXNetSGD, reference, arrays["lrs"])
        assert sorted(ours) == sorted(arrays["tensors"].tolist())
        assert largest_difference(ours, reference) <= STEP_TOLERANCE, name
        # The material shows where the learning rate belongs: torch's own SGD goes elsewhere after a decay.
        assert largest_difference(trajectories(torch.optim.SGD, reference, arrays["lrs"]), reference) > 1e-3, name


# --- augmentation ---

# How seldom two samples of one distribution differ as much as is allowed here: about 200 comparisons are
# made, so that one in 50 choices of seeds would fail by chance.
SIGNIFICANCE = 1e-4
SEED = 20180401


def ks_statistic(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic: the largest distance of the distribution functions."""
    values = np.concatenate([ours, theirs])
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).max())


def ks_threshold(count: int, other_count: int) -> float:
    """Return what `ks_statistic` exceeds by chance with SIGNIFICANCE; more seldom where values are repeated."""
    return float(np.sqrt(-np.log(SIGNIFICANCE / 2) / 2 * (1 / count + 1 / other_count)))


def differences(ours: Arrays, theirs: Arrays) -> list[str]:
    """Return a line for every statistic whose distributions differ, the worst first."""
    assert ours.keys() == theirs.keys()
    found = []
    for name in theirs:
        samples = [np.asarray(side[name], float) for side in (ours, theirs)]
        assert all(len(sample) >= 20 and np.isfinite(sample).all() for sample in samples), name
        distance, allowed = ks_statistic(*samples), ks_threshold(*map(len, samples))
        if distance > allowed:
            quantiles = [np.quantile(sample, [0, 0.1, 0.5, 0.9, 1]).round(3).tolist() for sample in samples]
            found.append(
                (-distance / allowed, f"{name}: {distance:.3f} > {allowed:.3f}, ours {quantiles[0]}, {quantiles[1]}")
            )
    return [line for _, line in sorted(found)]


def test_the_statistic_and_its_threshold_are_the_textbook_s() -> None:
    assert ks_statistic(np.arange(4.0), np.arange(4.0)) == 0
    assert ks_statistic(np.zeros(3), np.ones(5)) == 1
    assert ks_statistic(np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6, 7])) == pytest.approx(0.6)
    # Smirnov's table: 1.36 sqrt((n + m) / nm) at a significance of 0.05 is 2.225 there at 1e-4.
    assert ks_threshold(1000, 4000) == pytest.approx(2.225 * np.sqrt(5000 / 4e6), abs=1e-4)


def test_colours_are_distributed_as_gluoncv_s(oracle_dir: Path) -> None:
    reference = read(oracle_dir, "colour")
    colours, theirs = reference["colours"].astype(np.float64), reference["outputs"].astype(np.float64)
    rng = np.random.default_rng(SEED)
    maps = np.stack([sample_colour(rng) for _ in range(20000)])
    assert maps.shape == (20000, 3, 4) and maps.dtype == np.float32
    ours = np.einsum("rij,kj->rki", maps[:, :, :3], colours) + maps[:, None, :, 3]

    wrong = differences(colour_statistics(ours, colours), colour_statistics(theirs, colours))
    assert not wrong, "\n".join(wrong)


def colour_statistics(outputs: NDArray[Any], colours: NDArray[Any]) -> Arrays:
    """Return what is compared of outputs (R, K, 3) for colours (K, 3), of which the first are black, R, G and B."""
    # Steps that do not happen leave values that many runs share; float32 must not tear those apart.
    flat = outputs.reshape(len(outputs), -1).round(2)
    statistics = {f"channel {i % 3} of {colours[i // 3]}": flat[:, i] for i in range(flat.shape[1])}
    # Channels one at a time say nothing of how they go together; sums of them in any direction do.
    directions = np.random.default_rng(SEED).normal(size=(20, flat.shape[1]))
    statistics |= {f"direction {i}": (flat @ direction).round(2) for i, direction in enumerate(directions)}

    # The steps themselves, nearly, where they happen: grey is scaled by the contrast alone, which brightness
    # comes before, and the map's determinant is contrast ** 3 * saturation ** 2.
    black = outputs[:, 0]
    matrices = (outputs[:, 1:4] - black[:, None]) / 255
    contrast = matrices.sum(axis=1).mean(axis=1)
    brightness = black.mean(axis=1) / contrast
    saturation = np.sqrt(np.abs(np.linalg.det(matrices)) / contrast**3)
    return statistics | {
        "brightness": brightness[np.abs(brightness) > 0.1],
        # Would be larger if it were added after the scaling.
        "brightness before a low contrast": brightness[(np.abs(brightness) > 0.1) & (contrast < 0.8)],
        "contrast": contrast[np.abs(contrast - 1) > 0.01],
        "saturation": saturation[np.abs(saturation - 1) > 0.01],
    }


# The visible part of the image is resized to whole pixels of the input, and the boxes follow it: half a pixel at
# most, where GluonCV resizes the whole canvas and rounds nothing.
ROUNDING_PX = 0.5 + 1e-6
# Ours is the faster; the more runs, the smaller the differences that show.
RUNS_FOR_ONE = 4


def sampled(reference: Arrays) -> Arrays:
    """Draw one case with our code; return arrays named and shaped as the reference's, of more runs."""
    rng = np.random.default_rng(SEED)
    height, width = reference["image_size"].tolist()
    boxes, input_size = reference["boxes"], (int(reference["input_size"]),) * 2
    runs = [
        sample_geometry(rng, (height, width), boxes.copy(), input_size)
        for _ in range(len(reference["crop"]) * RUNS_FOR_ONE)
    ]
    is_kept = np.zeros((len(runs), len(boxes)), bool)
    final_boxes = np.full((len(runs), len(boxes), 4), np.nan)
    for row, run in enumerate(runs):
        assert run.kept.dtype == np.int64 and (np.diff(run.kept) > 0).all()
        is_kept[row, run.kept] = True
        final_boxes[row, run.kept] = run.boxes
    drawn = {
        "canvas": [run.canvas_size for run in runs],
        "offset": [run.image_offset for run in runs],
        "crop": [run.crop for run in runs],
        "is_flipped": [run.is_flipped for run in runs],
        "interpolation": [run.interpolation for run in runs],
    }
    fixed = {key: reference[key] for key in ("image_size", "boxes", "input_size")}
    return {
        **fixed,
        **{key: np.array(value) for key, value in drawn.items()},
        "is_kept": is_kept,
        "final_boxes": final_boxes,
    }


@pytest.fixture(scope="module")
def geometry(oracle_dir: Path) -> dict[str, tuple[Arrays, Arrays]]:
    """Ours and GluonCV's runs of each case."""
    return {name: (sampled(reference), reference) for name, reference in cases(read(oracle_dir, "geometry"))}


def shifted_boxes(runs: Arrays) -> NDArray[Any]:
    """Return the boxes of each run on its canvas, (R, M, 4)."""
    boxes: NDArray[Any] = runs["boxes"] + runs["offset"][:, None, [1, 0, 1, 0]]
    return boxes


def moved_boxes(runs: Arrays) -> tuple[NDArray[Any], NDArray[Any]]:
    """Work out what becomes of the boxes of each run from the numbers that were drawn.

    Returns:
        is_kept (R, M) and boxes (R, M, 4) in input pixels.
    """
    boxes = shifted_boxes(runs)
    low = runs["crop"][:, None, :2]
    high = low + runs["crop"][:, None, 2:]
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    clipped = np.concatenate([np.maximum(boxes[..., :2], low), np.minimum(boxes[..., 2:], high)], axis=2)
    is_kept = ((low <= centres) & (centres < high) & (clipped[..., :2] < clipped[..., 2:])).all(axis=2)
    # Where no crop keeps any, all boxes stay as they are.
    is_lost = ~is_kept.any(axis=1)
    is_kept[is_lost], clipped[is_lost] = True, boxes[is_lost]
    side = float(runs["input_size"])
    final = (clipped - np.tile(low, 2)) * (side / np.tile(runs["crop"][:, None, 2:], 2))
    flipped = np.stack([side - final[..., 2], final[..., 1], side - final[..., 0], final[..., 3]], axis=-1)
    return is_kept, np.where(runs["is_flipped"][:, None, None], flipped, final)


def test_boxes_follow_from_what_was_drawn_as_they_do_in_gluoncv(geometry: dict[str, tuple[Arrays, Arrays]]) -> None:
    for name, (ours, theirs) in geometry.items():
        is_kept, expected = moved_boxes(theirs)
        np.testing.assert_array_equal(theirs["is_kept"], is_kept, err_msg=name)
        # The same formula in float64; it stands for GluonCV in what follows.
        np.testing.assert_allclose(theirs["final_boxes"][is_kept], expected[is_kept], atol=1e-9, err_msg=name)

        is_kept, expected = moved_boxes(ours)
        # Ours end at the input's edge also where no crop fitted; they must, since the network sees no more.
        expected = expected.clip(0, float(ours["input_size"]))
        is_kept &= (expected[..., 2:] > expected[..., :2]).all(axis=2)
        np.testing.assert_array_equal(ours["is_kept"], is_kept, err_msg=name)
        # Where a box goes that reaches outside its image, as none of a data set does, is left open.
        if (ours["boxes"] >= 0).all():
            np.testing.assert_allclose(
                ours["final_boxes"][is_kept], expected[is_kept], rtol=0, atol=ROUNDING_PX, err_msg=name
            )


def statistics_of(runs: Arrays) -> Arrays:
    """Return what is compared of the runs of one case; each is one number a run."""
    (canvas_height, canvas_width), (top, left) = runs["canvas"].T, runs["offset"].T
    crop_left, crop_top, crop_width, crop_height = runs["crop"].T
    is_expanded = (runs["canvas"] != runs["image_size"]).any(axis=1)
    is_whole = (crop_width == canvas_width) & (crop_height == canvas_height)
    statistics: Arrays = {
        "canvas height": canvas_height,
        "canvas width": canvas_width,
        "offset top": top,
        "offset left": left,
        "offset top, of the room": (top / np.maximum(canvas_height - runs["image_size"][0], 1))[is_expanded],
        "offset left, of the room": (left / np.maximum(canvas_width - runs["image_size"][1], 1))[is_expanded],
        "crop left": crop_left / canvas_width,
        "crop top": crop_top / canvas_height,
        "crop width": crop_width / canvas_width,
        "crop height": crop_height / canvas_height,
        "crop area": crop_width * crop_height / (canvas_width * canvas_height),
        "crop aspect": (crop_width / canvas_width) / (crop_height / canvas_height),
        "crop is whole": is_whole,
        # Beside the crop, where the last position is left out.
        "room to the right": (canvas_width - crop_left - crop_width)[~is_whole],
        "room below": (canvas_height - crop_top - crop_height)[~is_whole],
        "pixels to the left, not expanded": crop_left[~is_expanded],
        "pixels above, not expanded": crop_top[~is_expanded],
        "width in pixels, not expanded": crop_width[~is_expanded],
        "height in pixels, not expanded": crop_height[~is_expanded],
    }
    if len(runs["boxes"]):
        kept = runs["is_kept"].sum(axis=1)
        # Ours end at the edge of the input; GluonCV leaves those of an image that no crop fitted as they are.
        boxes = np.where(runs["is_kept"][..., None], runs["final_boxes"], 0).clip(0, float(runs["input_size"]))
        sizes = boxes[..., 2:] - boxes[..., :2]
        overlaps = crop_overlaps(runs)
        statistics.update(
            {
                "boxes kept": kept,
                "boxes kept, expanded": kept[is_expanded],
                # Which of the constraints was chosen shows in these.
                "smallest overlap of a box and the crop": overlaps.min(axis=1),
                "largest overlap of a box and the crop": overlaps.max(axis=1),
                "area of the boxes": sizes.prod(axis=2).sum(axis=1).round(-1) / float(runs["input_size"]) ** 2,
            }
        )
    return statistics


def crop_overlaps(runs: Arrays) -> NDArray[Any]:
    """Return the IoU of each run's crop and boxes, (R, M)."""
    boxes = shifted_boxes(runs)
    low, size = runs["crop"][:, None, :2], runs["crop"][:, None, 2:]
    shared = (np.minimum(low + size, boxes[..., 2:]) - np.maximum(low, boxes[..., :2])).clip(0).prod(axis=2)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(axis=2)
    overlaps: NDArray[Any] = shared / (areas + size.prod(axis=2) - shared)
    return overlaps


def test_crops_and_canvases_are_distributed_as_gluoncv_s(geometry: dict[str, tuple[Arrays, Arrays]]) -> None:
    wrong = [
        f"{name}, {line}"
        for name, sides in geometry.items()
        for line in differences(*(statistics_of(side) for side in sides))
    ]
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong)


def test_what_no_image_changes_is_distributed_as_gluoncv_s(geometry: dict[str, tuple[Arrays, Arrays]]) -> None:
    """Expansion, flip and interpolation of all cases together, for the sharper comparison."""
    together: list[Arrays] = []
    for side in (0, 1):
        runs = [sides[side] for sides in geometry.values()]
        ratios = np.concatenate([run["canvas"][:, 1] / run["image_size"][1] for run in runs])
        interpolation = np.concatenate([run["interpolation"] for run in runs])
        assert set(interpolation.tolist()) == {0, 1, 2, 3, 4}
        together.append(
            {
                "is expanded": ratios > 1,
                "expansion": ratios,
                "is flipped": np.concatenate([run["is_flipped"] for run in runs]),
                **{f"interpolation is {code}": interpolation == code for code in range(5)},
            }
        )
    wrong = differences(*together)
    assert not wrong, "\n".join(wrong)
