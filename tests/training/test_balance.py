"""Images of rare classes come more often: factors by hand, and epochs counted."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ssd_train.datasets.dataset import Sample, make_ground_truth
from ssd_train.training.balance import balanced_order, describe_balance, repeat_factors
from ssd_train.training.batches import Stream


def samples_of(*labels: tuple[int, ...]) -> list[Sample]:
    """An image for each tuple, with an object of each label."""
    return [
        Sample(
            image_id=number,
            path=Path(f"{number}.jpg"),
            image_size=(10, 10),
            ground_truth=make_ground_truth(
                [{"box": (1, 1, 5, 5), "label": label, "is_difficult": False, "is_crowd": False, "area": 16.0}
                 for label in own]
            ),
        )
        for number, own in enumerate(labels)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # Equally frequent.
        (((0,), (1,)), [1, 1]),
        # t is 1/2; class 1 is in an eighth of the images: sqrt(4).
        (((0,),) * 7 + ((1,),), [1] * 7 + [2]),
        # The rarest class of an image decides, however many objects of it there are.
        (((0,),) * 7 + ((0, 1, 1, 1),), [1] * 7 + [2]),
        # Images without objects neither count nor are repeated.
        (((0,),) * 7 + ((1,),) + ((),) * 5, [1] * 7 + [2] + [1] * 5),
    ],
)
def test_factors_are_the_square_roots_of_the_paper(labels: tuple[tuple[int, ...], ...], expected: list[float]) -> None:
    assert repeat_factors(samples_of(*labels), 2).tolist() == expected


def test_a_class_without_images_changes_nothing() -> None:
    # t is 1/4 with four classes, and both classes that there are are in half of the images.
    assert repeat_factors(samples_of((0,), (3,)), 4).tolist() == [1, 1]


def test_what_is_repeated_is_counted() -> None:
    samples = samples_of(*((0,),) * 7, (0, 1))
    told = describe_balance(repeat_factors(samples, 2), samples, ("cat", "dog"))
    assert told == (
        "balance: 1 of 8 images come more often than the others, those of dog, which is in 1, 2.0 times as often"
    )
    even = samples_of((0,), (1,))
    assert "changes nothing" in describe_balance(repeat_factors(even, 2), even, ("cat", "dog"))


REPEATS = np.array([1, 1, 1, 1, 2, 3.5, 1, 1.5])


def test_an_epoch_keeps_its_size_and_takes_every_image_its_share_of_times_rounded_down_or_up() -> None:
    shares = REPEATS * len(REPEATS) / REPEATS.sum()
    totals = np.zeros(len(REPEATS))
    for seed in range(2000):
        order, copies = balanced_order(np.random.default_rng(seed), REPEATS)
        assert len(order) == len(copies) == len(REPEATS)
        times = np.bincount(order, minlength=len(REPEATS))
        assert ((times == np.floor(shares)) | (times == np.ceil(shares))).all()
        totals += times
        # Each time that an image comes has a number of its own.
        assert len(set(zip(order.tolist(), copies.tolist(), strict=True))) == len(order)
        assert all(copy < times[image] for image, copy in zip(order, copies, strict=True))
    # A count varies by less than one, so its mean of 2000 by less than 0.012; four of these.
    np.testing.assert_allclose(totals / 2000, shares, atol=0.05)


def test_equal_factors_take_every_image_once() -> None:
    order, copies = balanced_order(np.random.default_rng(3), np.full(100, 1.7))
    assert sorted(order.tolist()) == list(range(100)) and order.tolist() != list(range(100))
    assert not copies.any()


def stream_of(seed: int = 0) -> Stream:
    return Stream(num_samples=8, batch_size=6, epochs=30, seed=seed, repeats=REPEATS)


def test_the_stream_is_the_same_from_any_step_and_by_any_number_of_processes() -> None:
    whole = list(stream_of().keys(0))
    assert len(whole) == 40 and len(set(itertools.chain(*whole))) == 240
    assert [list(stream_of().keys(first)) for first in (1, 7, 39)] == [whole[first:] for first in (1, 7, 39)]
    for processes in (2, 3):
        shares = [list(stream_of().keys(2, rank, processes)) for rank in range(processes)]
        assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == whole[2:]
    assert list(stream_of(seed=1).keys(0)) != whole


def test_rare_images_come_more_often_in_the_stream() -> None:
    counted = Counter(key.sample for key in itertools.chain(*stream_of().keys(0)))
    # 30 epochs of 8 images, 12 shares: 2/3 an epoch for a factor of 1, 7/3 for one of 3.5.
    assert counted[5] == pytest.approx(70, abs=10) and counted[0] == pytest.approx(20, abs=10)
