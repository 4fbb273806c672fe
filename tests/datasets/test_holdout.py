"""A part of the images is held out by their names, the same on every machine."""

import hashlib
from pathlib import Path

import pytest

from ssd_train.datasets.annotations import AnnotatedImage
from ssd_train.datasets.holdout import split_off


def images(root: Path, *names: str) -> list[AnnotatedImage]:
    return [AnnotatedImage(image_id=name, path=root / name, image_size=(3, 4), objects=(), place="") for name in names]


def parts(root: Path, names: list[str], share: float) -> tuple[list[object], list[object]]:
    train, held_out = split_off(images(root, *names), share, root)
    return [image.image_id for image in train], [image.image_id for image in held_out]


def test_an_image_is_held_out_if_the_hash_of_its_name_is_below_the_share(tmp_path: Path) -> None:
    names = [f"images/cam {number % 3}/{number}.jpg" for number in range(300)]
    expected = [
        name for name in names if int(hashlib.sha256(name.removesuffix(".jpg").encode()).hexdigest(), 16) / 2**256 < 0.2
    ]
    train, held_out = parts(tmp_path, names, 0.2)
    assert held_out == expected and 40 < len(held_out) < 80
    assert train == [name for name in names if name not in expected]


def test_known_names_stay_on_their_side_for_ever(tmp_path: Path) -> None:
    # By `printf a | sha256sum`: ca97..., 3e23..., 2e7d..., 18ac..., 3f79... of a to e; a fifth is 3333...
    assert parts(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"], 0.2) == (
        ["a.jpg", "b.jpg", "e.jpg"], ["c.jpg", "d.jpg"],
    )  # fmt: skip


def test_the_parts_are_the_same_in_any_folder_order_and_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.jpg" for number in range(100)]
    _, expected = parts(tmp_path, names, 0.3)
    assert parts(Path("/elsewhere/data"), names, 0.3)[1] == expected
    assert sorted(map(str, parts(tmp_path, names[::-1], 0.3)[1])) == sorted(map(str, expected))
    assert [str(name) for name in parts(tmp_path, [f"{number}.PNG" for number in range(100)], 0.3)[1]] == [
        str(name).replace("jpg", "PNG") for name in expected
    ]
    monkeypatch.chdir(tmp_path)
    assert parts(Path("."), names, 0.3)[1] == expected


def test_more_images_or_a_larger_share_move_nothing_out_of_validation(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(200)]
    half, full = parts(tmp_path, names[:100], 0.2)[1], parts(tmp_path, names, 0.2)[1]
    assert half == [name for name in full if name in names[:100]]
    assert set(full) < set(parts(tmp_path, names, 0.4)[1])


def test_variants_that_roboflow_made_of_one_picture_stay_together(tmp_path: Path) -> None:
    hashes = [f"{number:032x}" for number in range(3)]
    names = [f"train/{number}_jpg.rf.{each}.jpg" for number in range(60) for each in hashes]
    train, held_out = parts(tmp_path, names, 0.3)
    sources = [{str(name).split(".rf.")[0] for name in part} for part in (train, held_out)]
    assert not sources[0] & sources[1] and all(sources)
    assert len(held_out) == 3 * len(sources[1])


@pytest.mark.parametrize("share", [0.001, 0.999])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_of_several_images_there_is_one_on_either_side(tmp_path: Path, share: float, count: int) -> None:
    names = [f"{number}.jpg" for number in range(count)]
    train, held_out = parts(tmp_path, names, share)
    assert len(held_out if share < 0.5 else train) == 1
    assert sorted([*map(str, train), *map(str, held_out)]) == sorted(names)


def test_an_image_that_a_list_repeats_is_trained_on_as_often_and_held_out_once(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(20)] * 3
    train, held_out = parts(tmp_path, names, 0.3)
    assert len(set(held_out)) == len(held_out)
    assert len(train) == 3 * (20 - len(held_out))
