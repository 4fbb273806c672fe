"""The stream of samples: everything in it once an epoch, the same from wherever and by however many it is read."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ssd_train.datasets.dataset import Sample, make_ground_truth
from ssd_train.training.augmentation import Augmentation
from ssd_train.training.batches import (
    AugmentedImages,
    Batch,
    Example,
    Key,
    Stream,
    available_workers,
    batches,
    collate,
)

SIDE = 32
SQUARE = (SIDE, SIDE)
COUNT = 7
# Samples and images a step: fewer, as many, with and without a rest, a batch of all.
PAIRS = [(1, 1), (5, 1), (5, 2), (6, 3), (7, 3), (7, 7), (10, 4), (97, 8), (13, 12)]


def stream_of(num_samples: int, batch_size: int, epochs: int = 5, seed: int = 0) -> Stream:
    return Stream(num_samples=num_samples, batch_size=batch_size, epochs=epochs, seed=seed)


@pytest.mark.parametrize(("num_samples", "batch_size"), PAIRS)
def test_every_sample_comes_once_an_epoch_across_the_borders_of_batches(num_samples: int, batch_size: int) -> None:
    stream = stream_of(num_samples, batch_size)
    steps = list(stream.keys(0))
    assert all(len(keys) == batch_size for keys in steps)
    keys = list(itertools.chain(*steps))
    # Only what does not fill the very last batch is missing.
    assert len(keys) == 5 * num_samples // batch_size * batch_size
    assert [key.epoch for key in keys] == [position // num_samples for position in range(len(keys))]
    for epoch in range(5):
        samples = [key.sample for key in keys if key.epoch == epoch]
        assert len(set(samples)) == len(samples) and set(samples) <= set(range(num_samples))
        if epoch < 4:
            assert len(samples) == num_samples


@pytest.mark.parametrize(("num_samples", "batch_size"), PAIRS)
def test_a_step_belongs_to_the_epoch_that_it_completes(num_samples: int, batch_size: int) -> None:
    stream = stream_of(num_samples, batch_size)
    steps = list(stream.keys(0))
    assert len(steps) == stream.first_step(5)
    for step, keys in enumerate(steps):
        assert stream.epoch_of(step) == keys[-1].epoch
    for epoch in range(5):
        own = [step for step in range(len(steps)) if stream.epoch_of(step) == epoch]
        assert own == list(range(stream.first_step(epoch), stream.first_step(epoch + 1)))


def test_steps_of_the_published_training_are_those_of_its_log() -> None:
    """16551 images in batches of 32: 517 steps an epoch and 7 images over, which make up a step later on."""
    stream = stream_of(16551, 32, epochs=240)
    assert [stream.first_step(epoch) for epoch in (0, 1, 2, 240)] == [0, 517, 1034, 16551 * 240 // 32]
    assert stream.epoch_of(516) == 0 and stream.epoch_of(517) == 1


@pytest.mark.parametrize("first_step", [0, 1, 4, 11, 12])
def test_starting_at_a_step_gives_the_rest_of_the_stream(first_step: int) -> None:
    stream = stream_of(10, 4)
    whole = list(stream.keys(0))
    assert len(whole) == 12
    assert list(stream.keys(first_step)) == whole[first_step:]


@pytest.mark.parametrize(
    ("first_size", "steps", "then_size"), [(2, 3, 5), (4, 4, 1), (3, 5, 4), (10, 2, 7), (1, 9, 10)]
)
def test_steps_of_another_size_go_on_where_those_before_ended(first_size: int, steps: int, then_size: int) -> None:
    """Every sample still comes once an epoch, in the order that it would have come in anyway."""
    first = stream_of(10, first_size)
    then = Stream(
        num_samples=10, batch_size=then_size, epochs=5, seed=0, origin_step=steps, origin_image=steps * first_size
    )
    keys = [*itertools.chain(*list(first.keys(0))[:steps]), *itertools.chain(*then.keys(steps))]
    assert keys == list(itertools.chain(*stream_of(10, 1).keys(0)))[: len(keys)]
    assert 50 - then_size < len(keys) <= 50
    assert then.total_steps == steps + (50 - steps * first_size) // then_size
    for step, of_step in enumerate(then.keys(steps), start=steps):
        assert then.epoch_of(step) == of_step[-1].epoch


def test_an_origin_that_steps_of_the_same_size_led_to_changes_nothing() -> None:
    whole = stream_of(10, 4)
    moved = Stream(num_samples=10, batch_size=4, epochs=5, seed=0, origin_step=3, origin_image=12)
    assert list(moved.keys(3)) == list(whole.keys(3)) and moved.total_steps == whole.total_steps
    for epoch in range(1, 6):
        assert moved.first_step(epoch) == whole.first_step(epoch)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("num_samples", [8, 13, 97])
def test_the_shares_of_processes_are_the_parts_of_one_batch(num_samples: int, processes: int) -> None:
    stream = stream_of(num_samples, 8)
    shares = [list(stream.keys(2, rank, processes)) for rank in range(processes)]
    assert all(len(keys) == 8 // processes for share in shares for keys in share)
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == list(stream.keys(2))


def test_each_epoch_and_seed_has_an_order_of_its_own() -> None:
    orders = {
        tuple(key.sample for key in itertools.chain(*stream_of(20, 20, seed=seed).keys(first, 0, 1)))[:20]
        for seed in (0, 1, 233)
        for first in range(5)
    }
    assert len(orders) == 15
    assert tuple(range(20)) not in orders
    assert list(stream_of(20, 20, seed=3).keys(0)) == list(stream_of(20, 20, seed=3).keys(0))


# --- examples ---


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Pictures of noise, one larger than the input by enough to be reduced; sample n has n + 1 objects."""
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        height, width = (200, 260) if number == 2 else (30 + number, 50 - 3 * number)
        path = folder / f"{number}.{'jpg' if number % 2 else 'png'}"
        assert cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        rows = [
            {
                "box": (index, 2 * index, width - index, height - index),
                "label": number,
                "is_difficult": False,
                "is_crowd": False,
                "area": 1.0,
            }
            for index in range(number + 1)
        ]
        truth = make_ground_truth(rows)
        made.append(Sample(image_id=number, path=path, image_size=(height, width), ground_truth=truth))
    return made


@pytest.fixture
def broken(samples: list[Sample], tmp_path: Path) -> list[Sample]:
    """The same, but samples 3 and 4 have a file that is no image."""
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no image")
    return [
        sample if number not in (3, 4) else Sample(
            image_id=number, path=path, image_size=sample.image_size, ground_truth=sample.ground_truth
        )
        for number, sample in enumerate(samples)
    ]  # fmt: skip


def assert_same(one: Example, other: Example) -> None:
    for name, value, expected in zip(Example._fields, one, other, strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_an_example_depends_on_seed_epoch_and_sample_alone(samples: list[Sample]) -> None:
    keys = [Key(epoch, sample) for epoch in range(2) for sample in range(COUNT)]
    straight, backwards = AugmentedImages(samples, SQUARE, 5), AugmentedImages(samples, SQUARE, 5)
    expected = {key: straight[key] for key in keys}
    np.random.seed(0)
    for key in reversed(keys):
        assert_same(backwards[key], expected[key])
        assert_same(backwards[key], expected[key])
    assert len({example.colour.tobytes() + example.image.tobytes() for example in expected.values()}) == len(keys)
    other_seed = AugmentedImages(samples, SQUARE, 6)[keys[0]]
    assert not np.array_equal(other_seed.image, expected[keys[0]].image)


def test_copies_of_a_sample_in_an_epoch_are_augmented_each_by_itself(samples: list[Sample]) -> None:
    images = AugmentedImages(samples, SQUARE, 5)
    one, other = images[Key(0, 2, 1)], images[Key(0, 2, 2)]
    assert_same(images[Key(0, 2)], images[Key(0, 2, 0)])
    assert_same(images[Key(0, 2, 1)], one)
    seen = {example.colour.tobytes() + example.image.tobytes() for example in (images[Key(0, 2)], one, other)}
    assert len(seen) == 3


def test_the_largest_expansion_is_passed_on(samples: list[Sample]) -> None:
    """A picture that is not expanded fills the whole input, for its crops never leave it."""
    images = AugmentedImages(samples, SQUARE, 5, augmentation=Augmentation(max_expansion=1.0))
    expanded = AugmentedImages(samples, SQUARE, 5)
    keys = [Key(epoch, 0) for epoch in range(12)]
    assert {images[key].place for key in keys} == {(0, 0, SIDE, SIDE)}
    assert len({expanded[key].place for key in keys}) > 1


def test_a_rectangular_input_has_its_image_and_boxes_in_rows_and_columns(samples: list[Sample]) -> None:
    """Without crop and expansion the image fills 16 rows and 48 columns, mirrored or not."""
    images = AugmentedImages(samples, (16, 48), 0, augmentation=Augmentation(max_expansion=1.0, crop=False))
    batch = collate([images[Key(0, number)] for number in range(COUNT)])
    assert batch.images.shape == (COUNT, 16, 48, 3)
    assert batch.places.tolist() == [[0, 0, 48, 16]] * COUNT
    # The first object of every sample is the whole image.
    np.testing.assert_allclose(batch.boxes[:, 0], [[0, 0, 48, 16]] * COUNT, atol=1e-5)


def test_an_example_has_its_types_and_the_labels_of_its_boxes(samples: list[Sample]) -> None:
    images = AugmentedImages(samples, SQUARE, 0)
    assert len(images) == COUNT
    for number in range(COUNT):
        example = images[Key(3, number)]
        assert (example.image.shape, example.image.dtype) == ((SIDE, SIDE, 3), np.uint8)
        assert (example.colour.shape, example.colour.dtype) == ((3, 4), np.float32)
        assert (example.boxes.dtype, example.labels.dtype) == (np.float32, np.int64)
        assert len(example.boxes) == len(example.labels) >= 1
        assert set(example.labels.tolist()) == {number}
        assert example.path == str(samples[number].path) and example.bad == ()
        # Outside of its target there is no picture; it is noise, so that hardly any of it is 0.
        left, top, right, bottom = example.place
        filled = example.image.any(axis=2)
        assert filled[top:bottom, left:right].mean() > 0.9
        assert filled.sum() == filled[top:bottom, left:right].sum()


# --- collate ---


def example_of(count: int, *, label: int = 0, bad: tuple[str, ...] = (), path: str = "a.jpg") -> Example:
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4) + 1
    return Example(
        np.full((SIDE, SIDE, 3), count, np.uint8), (1, 2, 3, 4), np.eye(3, 4, dtype=np.float32) * count, boxes,
        np.full(count, label, np.int64), path, bad,
    )  # fmt: skip


@pytest.mark.parametrize(("counts", "rows"), [([0], 1), ([1], 1), ([0, 3, 1], 3), ([2, 2], 2)])
def test_boxes_are_padded_to_the_fullest_image_and_marked_by_their_labels(counts: list[int], rows: int) -> None:
    batch = collate([example_of(count, label=7) for count in counts])
    size = len(counts)
    assert batch.images.shape == (size, SIDE, SIDE, 3) and batch.images.dtype == torch.uint8
    assert batch.places.tolist() == [[1, 2, 3, 4]] * size and batch.places.dtype == torch.int64
    assert batch.colours.shape == (size, 3, 4) and batch.colours.dtype == torch.float32
    assert batch.boxes.shape == (size, rows, 4) and batch.boxes.dtype == torch.float32
    assert batch.labels.tolist() == [[7] * count + [-1] * (rows - count) for count in counts]
    for row, count in enumerate(counts):
        assert batch.images[row].unique().tolist() == [count]
        np.testing.assert_array_equal(batch.boxes[row, :count], example_of(count).boxes)
        assert not batch.boxes[row, count:].any()
    assert batch.paths == ("a.jpg",) * size and batch.bad == ()


def test_what_was_wrong_with_images_is_collected() -> None:
    batch = collate([example_of(1, bad=("one",)), example_of(2), example_of(1, bad=("two", "three"))])
    assert batch.bad == ("one", "two", "three")
    assert len(batch.images) == 3


def test_an_example_without_an_image_makes_a_batch_without_images() -> None:
    batch = collate([example_of(1), example_of(0, path="", bad=("no image",)), example_of(2)])
    assert batch.bad == ("no image",)
    assert batch.paths == () and len(batch.images) == len(batch.boxes) == len(batch.labels) == 0


def test_a_batch_moves_with_all_its_parts() -> None:
    batch = collate([example_of(2)]).to(torch.device("meta"))
    parts = (batch.images, batch.places, batch.colours, batch.boxes, batch.labels)
    assert {part.device.type for part in parts} == {"meta"}
    assert batch.paths == ("a.jpg",)


# --- images that cannot be read ---


def test_a_broken_image_is_named_instead_of_an_example(broken: list[Sample]) -> None:
    example = AugmentedImages(broken, SQUARE, 0)[Key(0, 3)]
    assert example.path == "" and len(example.bad) == 1
    assert str(broken[3].path) in example.bad[0]


def test_skipping_takes_the_next_sample_that_can_be_read_and_says_so(broken: list[Sample]) -> None:
    images = AugmentedImages(broken, SQUARE, 0, skip_bad=True)
    example = images[Key(1, 3)]
    assert [str(broken[3].path) in sentence for sentence in example.bad] == [True, True]
    assert_same(example._replace(bad=()), images[Key(1, 5)])


def test_skipping_goes_on_with_the_first_sample_after_the_last(broken: list[Sample]) -> None:
    images = AugmentedImages([*broken[5:], *broken[2:4]], SQUARE, 0, skip_bad=True)
    example = images[Key(0, 3)]
    assert len(example.bad) == 1
    assert_same(example._replace(bad=()), images[Key(0, 0)])


def test_where_no_image_can_be_read_each_is_named_once(broken: list[Sample]) -> None:
    example = AugmentedImages(broken[3:5], SQUARE, 0, skip_bad=True)[Key(0, 1)]
    assert example.path == "" and len(example.bad) == 2
    assert len(collate([example]).images) == 0


def test_an_image_of_another_size_than_annotated_counts_as_broken(samples: list[Sample]) -> None:
    wrong = Sample(image_id=0, path=samples[0].path, image_size=(31, 50), ground_truth=samples[0].ground_truth)
    example = AugmentedImages([wrong], SQUARE, 0)[Key(0, 0)]
    assert "50x30 pixels, but its annotation says 50x31" in example.bad[0]


# --- the loader ---

STREAM = stream_of(COUNT, 4, epochs=3, seed=9)


def loaded(samples: list[Sample], workers: int, first_step: int = 0, rank: int = 0, processes: int = 1) -> list[Batch]:
    images = AugmentedImages(samples, SQUARE, 9)
    found: Iterator[Batch] = batches(
        images, STREAM, first_step=first_step, rank=rank, processes=processes, workers=workers, pin_memory=False
    )
    return list(found)


def assert_same_batches(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.paths, one.bad) == (other.paths, other.bad)
        for name in ("images", "places", "colours", "boxes", "labels"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.fixture(scope="module")
def whole(samples: list[Sample]) -> list[Batch]:
    return loaded(samples, workers=0)


def test_batches_are_the_examples_of_the_stream(samples: list[Sample], whole: list[Batch]) -> None:
    images = AugmentedImages(samples, SQUARE, 9)
    assert_same_batches(whole, [collate([images[key] for key in keys]) for keys in STREAM.keys(0)])
    assert len(whole) == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_with_worker_processes(samples: list[Sample], whole: list[Batch], workers: int) -> None:
    assert_same_batches(loaded(samples, workers), whole)


@pytest.mark.parametrize(("first_step", "workers"), [(3, 0), (3, 2), (5, 0)])
def test_batches_from_a_later_step_are_the_rest(
    samples: list[Sample], whole: list[Batch], first_step: int, workers: int
) -> None:
    assert_same_batches(loaded(samples, workers, first_step), whole[first_step:])


def test_processes_load_parts_of_the_same_batches(samples: list[Sample], whole: list[Batch]) -> None:
    first, second = (loaded(samples, 0, rank=rank, processes=2) for rank in range(2))
    for one, other, both in zip(first, second, whole, strict=True):
        assert one.paths + other.paths == both.paths
        assert torch.equal(torch.cat([one.images, other.images]), both.images)


def test_loading_leaves_the_global_generators_alone(samples: list[Sample]) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    loaded(samples, workers=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]


def test_a_broken_image_comes_back_from_a_worker_as_a_sentence(broken: list[Sample]) -> None:
    batch = next(
        batches(
            AugmentedImages(broken[3:4], SQUARE, 0), stream_of(1, 1, epochs=1),
            first_step=0, rank=0, processes=1, workers=1, pin_memory=False,
        )
    )  # fmt: skip
    assert len(batch.images) == 0
    assert str(broken[3].path) in batch.bad[0]


@pytest.mark.parametrize(
    ("asked", "processes", "cores", "expected"),
    [(0, 1, 8, 0), (16, 1, 8, 8), (4, 1, 8, 4), (16, 4, 8, 2), (16, 4, 2, 1), (0, 4, 2, 0)],
)
def test_workers_are_at_most_one_a_core_of_the_process_s_share(
    monkeypatch: pytest.MonkeyPatch, asked: int, processes: int, cores: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert available_workers(asked, processes) == expected


class _Stuck(AugmentedImages):
    """A fake: the images of the first step, and for those of the others it waits without end."""

    def __getitem__(self, key: Key) -> Example:
        if key.sample != FIRST_STEP[0].sample:
            threading.Event().wait()
        return super().__getitem__(key)


FIRST_STEP = next(Stream(num_samples=COUNT, batch_size=1, epochs=1, seed=0).keys(0))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fake data set reaches workers by a fork")
def test_a_worker_that_does_not_come_to_its_end_is_ended(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    stream = Stream(num_samples=COUNT, batch_size=1, epochs=1, seed=0)
    loading = batches(
        _Stuck(samples, SQUARE, 0), stream, first_step=0, rank=0, processes=1, workers=1, pin_memory=False
    )
    next(loading)
    (worker,) = multiprocessing.active_children()
    loading.close()
    worker.join(timeout=10)
    assert worker.exitcode == -signal.SIGKILL
