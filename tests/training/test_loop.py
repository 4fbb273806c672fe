"""A whole training: the files it leaves, their numbers, and what happens where it cannot go on."""

import json
import resource
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import (
    CLASSES,
    FILES,
    NETWORK,
    PACKAGED,
    Run,
    assert_same_bits,
    assert_same_outcome,
    contents,
    metadata,
    metrics,
    mistake,
    run_cli,
    small_options,
    tensors,
)

from ssd_train import build_network
from ssd_train.training import checkpoint, recorder
from ssd_train.training.batches import Stream
from ssd_train.training.checkpoint import read_checkpoint
from ssd_train.training.config import read_config
from ssd_train.weights.description import network_of

pytestmark = pytest.mark.slow  # real trainings

TrainToTheEnd = Callable[..., Run]


def picture_path(dataset: Path, index: int) -> Path:
    return dataset / "JPEGImages" / f"shapes0_{index:07d}.jpg"


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


# --- What a training leaves -----------------------------------------------------------------------------------


def test_a_training_leaves_its_files_and_no_others(unbroken: Run) -> None:
    assert {path.name for path in unbroken.folder.iterdir()} == FILES
    assert unbroken.result.exit_code == 0 and unbroken.result.folder == unbroken.folder
    for name, least in (("augmented.jpg", (128, 512)), ("validation_detections.jpg", (600, 1600)),
                        ("curves.png", (400, 800))):  # fmt: skip
        picture = cv2.imread(str(unbroken.folder / name))
        assert picture is not None and picture.shape[0] >= least[0] and picture.shape[1] >= least[1], name
        assert picture.std() > 10, name


def test_metrics_have_a_line_a_step_an_epoch_and_a_validation_in_the_order_of_events(unbroken: Run) -> None:
    lines = metrics(unbroken.folder)
    assert [(line["kind"], line["step"], line["epoch"]) for line in lines] == [
        ("step", 1, 0), ("step", 2, 0), ("epoch", 2, 0),
        ("step", 3, 1), ("step", 4, 1), ("step", 5, 1), ("epoch", 5, 1), ("validation", 5, 1),
        ("step", 6, 2), ("step", 7, 2), ("epoch", 7, 2), ("validation", 7, 2),
    ]  # fmt: skip
    steps, epochs, validations = (
        [line for line in lines if line["kind"] == kind] for kind in ("step", "epoch", "validation")
    )
    for line in steps:
        assert line.keys() == {
            "kind", "step", "epoch", "cls_loss", "box_loss", "lr", "images_per_second", "data_wait_share",
        }  # fmt: skip
        assert line["lr"] == 1e-3 and line["images_per_second"] > 0 and 0 <= line["data_wait_share"] <= 1
    for line in epochs:
        assert line.keys() == {"kind", "step", "epoch", "cls_loss", "box_loss", "lr"}
        for name in ("cls_loss", "box_loss"):
            of_epoch = [step[name] for step in steps if step["epoch"] == line["epoch"]]
            assert line[name] == pytest.approx(statistics.fmean(of_epoch), rel=1e-12)
    for line in validations:
        assert line.keys() == {"kind", "step", "epoch", "best", "cls_loss", "box_loss", "scores", "per_class"}
        assert line["scores"].keys() == {"VOC07 mAP", "VOC12 mAP"}
        assert set(line["per_class"]) <= set(CLASSES)
        known = [ap for ap in line["per_class"].values() if ap is not None]
        assert statistics.fmean(known) == pytest.approx(line["scores"]["VOC07 mAP"], abs=1e-12)
    scores = [line["scores"]["VOC07 mAP"] for line in validations]
    assert [line["best"] for line in validations] == [scores[0], max(scores)]
    assert unbroken.result.best == max(scores)
    assert unbroken.result.report is not None and unbroken.result.report.headline == scores[1]


def test_tensorboard_gets_the_same_numbers(unbroken: Run) -> None:
    (events,) = (unbroken.folder / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")
    board = EventAccumulator(str(events))
    board.Reload()
    lines = metrics(unbroken.folder)
    for kind, name in (("step", "cls_loss"), ("step", "lr"), ("epoch", "box_loss")):
        expected = {line["step"]: line[name] for line in lines if line["kind"] == kind}
        found = {event.step: event.value for event in board.Scalars(f"{kind}/{name}")}
        # Event files hold float32.
        assert found == pytest.approx(expected, rel=1e-6)
    validations = {line["step"]: line for line in lines if line["kind"] == "validation"}
    expected = {
        "VOC07 mAP": {step: line["scores"]["VOC07 mAP"] for step, line in validations.items()},
        "cls_loss": {step: line["cls_loss"] for step, line in validations.items()},
        "per_class/star": {step: line["per_class"]["star"] for step, line in validations.items()},
    }
    for name, values in expected.items():
        found = {event.step: event.value for event in board.Scalars(f"validation/{name}")}
        assert found == pytest.approx(values, rel=1e-6), name


def test_what_is_logged_says_what_is_trained_on_and_how_it_goes(unbroken: Run) -> None:
    lines = unbroken.lines
    assert f"{NETWORK}, 5 classes, on 1 x cpu: 5 training images (train), 6 for validation (val)" in lines[0]
    assert "7 steps of 2 images in 3 epochs" in lines[0]
    assert [line.split(":")[0] for line in lines if line.startswith("epoch ")] == [
        "epoch 1/3", "epoch 2/3", "epoch 2/3", "epoch 3/3", "epoch 3/3",
    ]  # fmt: skip


def test_config_json_alone_repeats_the_training(unbroken: Run, tmp_path: Path) -> None:
    written = read_config(unbroken.folder / "config.json")
    given = {name: getattr(unbroken.config, name) for name in written}
    assert written == given | {"train_split": "train", "val_split": "val"}
    code, output = run_cli("train", "--config", unbroken.folder / "config.json", "--out", tmp_path / "again")
    assert code == 0, output
    assert_same_outcome(tmp_path / "again", unbroken.folder)


def test_the_weights_load_with_their_classes_and_eval_gives_the_validations_score(
    unbroken: Run, shapes: Path, tmp_path: Path
) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        network = build_network(NETWORK, weights=unbroken.folder / name)
        assert network.config.class_names == CLASSES
        assert metadata(unbroken.folder / name)["source"].startswith("trained on shapes train, step ")
    last = unbroken.folder / "last.safetensors"
    assert_same_bits(dict(network.state_dict()), tensors(last))
    assert_same_bits(dict(network.state_dict()), dict(read_checkpoint(unbroken.folder / "last.ckpt")["network"]))
    # The checkpoint is weights too, and so is the folder.
    checkpoint = build_network(NETWORK, weights=unbroken.folder / "last.ckpt")
    assert checkpoint.config.class_names == CLASSES and checkpoint.spec.weights == "last.ckpt, from a training, step 7"
    assert_same_bits(dict(checkpoint.state_dict()), tensors(last))
    assert network_of(unbroken.folder / "last.ckpt") == NETWORK
    best = build_network(NETWORK, weights=unbroken.folder)
    assert_same_bits(dict(best.state_dict()), tensors(unbroken.folder / "best.safetensors"))
    # As `export` does too, which takes too long here.
    code, output = run_cli(
        "eval", "--network", NETWORK, "--weights", last, "--dataset", "voc", "--data-root", shapes, "--split", "val",
        "--json", tmp_path / "report.json",
    )  # fmt: skip
    assert code == 0, output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["numbers"] == metrics(unbroken.folder)[-1]["scores"]
    assert report["detector"]["class_names"] == list(CLASSES)


def test_a_handful_of_pictures_is_learnt(train_to_the_end: TrainToTheEnd, shapes: Path, tmp_path: Path) -> None:
    changes = {"limit": 4, "batch_size": 4, "epochs": 16, "val_interval": 16, "lr": 4e-3}
    run = train_to_the_end(shapes, tmp_path / "run", network=PACKAGED, **changes)
    losses = [line["cls_loss"] for line in metrics(run.folder) if line["kind"] == "epoch"]
    # The localisation loss says less: how small the objects of a step are changes it more than learning does.
    assert statistics.fmean(losses[-3:]) < 0.65 * statistics.fmean(losses[:3])


# --- Variants -------------------------------------------------------------------------------------------------


def test_channels_last_learns_the_same(
    unbroken: Run, train_to_the_end: TrainToTheEnd, shapes: Path, tmp_path: Path
) -> None:
    run = train_to_the_end(shapes, tmp_path / "run", channels_last=True, epochs=1)
    for name in ("cls_loss", "box_loss"):
        # Of the first step: batch norms over two images make much of the smallest differences.
        assert metrics(run.folder)[0][name] == pytest.approx(metrics(unbroken.folder)[0][name], rel=1e-2)


def test_bf16_computes_in_less_precision_and_keeps_float32_weights(
    unbroken: Run, train_to_the_end: TrainToTheEnd, shapes: Path, tmp_path: Path
) -> None:
    run = train_to_the_end(shapes, tmp_path / "run", amp="bf16", limit=2, epochs=1, network=PACKAGED)
    (line,) = [line for line in metrics(run.folder) if line["kind"] == "step"]
    assert np.isfinite([line["cls_loss"], line["box_loss"]]).all()
    state = tensors(run.folder / "last.safetensors")
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


# --- A loss that is no number ---------------------------------------------------------------------------------


def test_a_loss_that_is_no_longer_finite_is_a_sentence_with_step_rate_and_files(
    unbroken: Run, copied: Path, shapes: Path
) -> None:
    before = contents(copied)
    line = mistake("train", *small_options(shapes, copied, epochs=4, lr=1e30, resume="auto"))
    # Step 8 is finite, and gives the weights that step 9 fails with.
    assert "no longer finite at step 9, " in line and "learning rate 1e+30" in line and "--lr" in line
    stream = Stream(num_samples=5, batch_size=2, epochs=4, seed=unbroken.config.seed)
    keys = list(stream.keys(0))[8]
    assert all(str(picture_path(shapes, key.sample)) in line for key in keys)
    after = contents(copied)
    for name in ("last.ckpt", "best.safetensors", "last.safetensors"):
        assert after[name] == before[name], name
    assert read_checkpoint(copied / "last.ckpt")["position"]["step"] == 7
    # A training with a rate that works goes on from there, and forgets the steps of the other.
    code, output = run_cli("train", *small_options(shapes, copied, epochs=4, resume="auto"))
    assert code == 0, output
    assert [line["step"] for line in metrics(copied) if line["kind"] == "step"] == list(range(1, 11))


# --- Folders that cannot be written ---------------------------------------------------------------------------


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """Set how large a file may get, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Less than a checkpoint; less than the lines that are there; less than any picture.
@pytest.mark.parametrize(("size_bytes", "name"), [(15_000_000, "last.ckpt"), (2100, "metrics.jsonl"), (700, "config")])
def test_a_full_disk_is_a_sentence_and_the_earlier_checkpoint_stays(
    copied: Path, shapes: Path, largest_file: Callable[[int], None], size_bytes: int, name: str
) -> None:
    before = contents(copied)
    options = small_options(shapes, copied, epochs=4, resume="auto")
    largest_file(size_bytes)
    line = mistake("train", *options)
    assert str(copied / name) in line and "make room" in line
    after = contents(copied)
    assert after["last.ckpt"] == before["last.ckpt"]
    assert {path.name for path in copied.iterdir()} == FILES


# A checkpoint is longer than the weights: to get to the second of two, the first is not written here.
def test_a_disk_that_fills_up_amid_other_files_is_a_sentence_too(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest_file: Callable[[int], None]
) -> None:
    monkeypatch.setattr(recorder, "write_preview", lambda folder, batch, prepared: folder)
    monkeypatch.setattr(checkpoint, "write_checkpoint", lambda path, state: None)
    options = small_options(shapes, tmp_path / "run", limit=2)
    largest_file(5_000_000)
    line = mistake("train", *options)
    assert str(tmp_path / "run" / "best.safetensors") in line and "make room" in line
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_in_the_place_of_the_folder_is_named(shapes: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("mine")
    line = mistake("train", *small_options(shapes, tmp_path / "taken" / below))
    assert str(tmp_path / "taken" / below) in line and "cannot be written" in line
    assert (tmp_path / "taken").read_text() == "mine"


# --- Images that cannot be read -------------------------------------------------------------------------------


def test_a_broken_training_image_stops_the_training_and_is_named(own_shapes: Path, tmp_path: Path) -> None:
    cut_off(picture_path(own_shapes, 1))
    line = mistake("train", *small_options(own_shapes, tmp_path / "run"))
    assert str(picture_path(own_shapes, 1)) in line and "cut off" in line and "--skip-bad-images" in line


def test_broken_images_are_skipped_and_counted_where_that_is_asked_for(own_shapes: Path, tmp_path: Path) -> None:
    cut_off(picture_path(own_shapes, 1))
    picture_path(own_shapes, 3).write_bytes(b"")
    broken_validation = picture_path(own_shapes, 1_000_002)
    broken_validation.write_bytes(b"no picture")
    code, output = run_cli("train", *small_options(own_shapes, tmp_path / "run", skip_bad_images=True))
    assert code == 0, output
    assert "2 training images could not be read:" in output
    assert all(f"  {picture_path(own_shapes, index)}: " in output for index in (1, 3))
    assert "note: validation: left out 1 images that cannot be read: shapes0_1000002.jpg" in output
    counts = [line.get("bad_images") for line in metrics(tmp_path / "run") if line["kind"] == "epoch"]
    # Which of them came first is the seed's doing.
    assert counts[-1] == 2 and counts == sorted(counts, key=lambda count: count or 0)


def test_a_training_without_any_readable_image_ends_even_if_bad_ones_are_skipped(
    own_shapes: Path, tmp_path: Path
) -> None:
    for path in (own_shapes / "JPEGImages").glob("shapes0_0*.jpg"):
        path.write_bytes(b"no picture")
    line = mistake("train", *small_options(own_shapes, tmp_path / "run", skip_bad_images=True))
    assert "none of the 5 training images can be read" in line and str(own_shapes / "JPEGImages") in line


@pytest.mark.parametrize("skip", [False, True])
def test_broken_validation_images_show_before_the_training(own_shapes: Path, tmp_path: Path, skip: bool) -> None:
    broken = [*(own_shapes / "JPEGImages").glob("shapes0_1*.jpg")] if skip else [picture_path(own_shapes, 1_000_004)]
    for path in broken:
        cut_off(path)
    line = mistake("train", *small_options(own_shapes, tmp_path / "run", skip_bad_images=skip))
    assert ("none of its 6 images can be read" if skip else str(broken[0])) in line
    assert not (tmp_path / "run").exists()
