"""The folder of a report: page, data, charts and pictures."""

import dataclasses
import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_train.datasets.dataset import Dataset
from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.report.evaluation import Evaluation
from ssd_train.report.page import check_report
from ssd_train.report.worst import worst_pictures
from ssd_train.report.write import write_report


@pytest.fixture(scope="module")
def folder(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write_report(folder, evaluation) == folder / "report.html"
    return folder


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_folder_has_a_page_its_data_charts_and_a_picture_of_each_mistake(folder: Path) -> None:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    kinds = ("bad_box", "duplicate", "false", "missed", "wrong_class")
    pictures = [f"pictures/{kind}_01.jpg" for kind in kinds]
    # The third class has no object that counts and no detection that does.
    assert names == [
        "class_000.png",
        "class_001.png",
        "confusion.png",
        "curves.png",
        *pictures,
        "report.html",
        "report.json",
    ]
    for path in folder.rglob("*.png"):
        assert cv2.imread(str(path)).std() > 0


def test_names_on_the_page_are_text(folder: Path, evaluation: Evaluation) -> None:
    page = Page(folder / "report.html")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1 and not {"i", "hand"} & set(tags)
    for name in (*evaluation.dataset.class_names[:2], evaluation.dataset.name, "<b>0&.png", "by <hand>"):
        assert name in page.text


def test_names_on_the_page_turn_nothing_round(evaluation: Evaluation, tmp_path: Path) -> None:
    name = "own \u202edata\x1b"
    report = dataclasses.replace(evaluation.report, dataset=name)
    write_report(tmp_path, dataclasses.replace(evaluation, report=report), pictures=0)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "own \\u202edata\\u001b" in html and not {"\u202e", "\x1b"} & set(html)


def test_links_lead_to_files_and_images_are_inside(folder: Path) -> None:
    page = Page(folder / "report.html")
    links = [attributes["href"] or "" for tag, attributes in page.tags if tag == "a"]
    pictures = [link for link in links if not link.startswith("#")]
    assert len(pictures) == 5 and all((folder / link).is_file() for link in pictures)
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert all(link[1:] in ids for link in links if link.startswith("#"))
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 9 and all(source.startswith("data:image/") for source in sources)


def test_the_page_says_the_protocol_the_thresholds_and_what_was_run(folder: Path, evaluation: Evaluation) -> None:
    text = re.sub(r"\s+", " ", Page(folder / "report.html").text)
    assert evaluation.report.protocol_text in text and "saved with the detector: hand" in text
    assert "ab" * 32 in text
    for name in ("VOC07 mAP", "AP50", "ARl"):
        assert name in text


def test_the_data_are_plain_and_complete(folder: Path, evaluation: Evaluation) -> None:
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert data["schema_version"] == 1
    assert data["evaluation"]["headline"] == evaluation.report.headline
    assert data["confusion"]["matrix"] == evaluation.confusion.tolist()
    assert [each["kind"] for each in data["mistakes"]] == ["duplicate", "bad box", "wrong class", "missed", "false"]
    assert data["mistakes"][2]["object_class"] == evaluation.dataset.class_names[0]
    assert data["mistakes"][4]["box"] == [100, 60, 160, 118], "clipped to the picture"
    assert data["other_metrics"][0]["metric"] == "coco"
    assert data["pictures"]["missed"] == [{"file": "pictures/missed_01.jpg", "image": "<b>2&", "mistakes": 1}]
    assert data["working_thresholds"]["per_class"] == dict.fromkeys(evaluation.dataset.class_names, 0.5)
    assert data["per_class"]["_hidden 漢字"]["recall"] is None


def test_a_picture_is_truth_beside_detections_with_what_is_wrong_in_red(evaluation: Evaluation) -> None:
    (missed,) = worst_pictures(evaluation, "missed", 5)
    height, width = missed.sample.image_size
    assert missed.picture.shape == (height, 2 * width + 6, 3)
    red = (missed.picture == np.array([230, 0, 0])).all(axis=2)
    left, right = red[:, :width], red[:, width + 6 :]
    # The frame of the missed object runs along its box, 10 to 50 pixels, on the side of the truth alone.
    rows, columns = np.nonzero(left)
    assert (rows.min(), columns.min()) <= (10, 10) and rows.max() >= 50 and columns.max() >= 50
    assert rows.max() < 60 and columns.max() < 60 and not right.any()
    (false,) = worst_pictures(evaluation, "false", 5)
    red = (false.picture == np.array([230, 0, 0])).all(axis=2)
    assert red[:, width + 6 :].any() and not red[:, :width].any()


def test_the_worst_pictures_come_first_and_no_more_than_asked_for(evaluation: Evaluation) -> None:
    mistakes = [list(of_image) for of_image in evaluation.mistakes]
    false = mistakes[3][0]
    # One of 0.55, two of 0.3 each, none, one of 0.9.
    many = [[false], [dataclasses.replace(false, score=0.3)] * 2, [], [dataclasses.replace(false, score=0.9)]]
    changed = dataclasses.replace(evaluation, mistakes=many, kept=[evaluation.kept[3]] * 4)
    order = [each.sample.image_id for each in worst_pictures(changed, "false", 5)]
    assert order == ["<b>3&", "<b>1&", "<b>0&"]
    assert len(list(worst_pictures(changed, "false", 2))) == 2


def test_a_large_picture_is_shrunk_and_its_boxes_with_it(evaluation: Evaluation, tmp_path: Path) -> None:
    sample = evaluation.dataset.samples[2]
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), np.zeros((1200, 1600, 3), np.uint8))
    truth = dataclasses.replace(sample.ground_truth, boxes=10 * sample.ground_truth.boxes)
    large = dataclasses.replace(sample, path=path, image_size=(1200, 1600), ground_truth=truth)
    samples = (*evaluation.dataset.samples[:2], large, evaluation.dataset.samples[3])
    changed = dataclasses.replace(evaluation, dataset=dataclasses.replace(evaluation.dataset, samples=samples))
    (missed,) = worst_pictures(changed, "missed", 1)
    assert missed.picture.shape == (675, 1806, 3)
    rows, _ = np.nonzero((missed.picture == np.array([230, 0, 0])).all(axis=2))
    # From 100 to 500 of 1200 rows.
    assert 40 < rows.min() <= 56 and 281 <= rows.max() < 300


def test_what_an_earlier_report_left_is_removed_and_nothing_else(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    old = [tmp_path / name for name in ("class_007.png", "pictures/missed_09.jpg")]
    others = [tmp_path / name for name in ("class_a.png", "pictures/own.jpg", "notes.txt")]
    for path in (*old, *others):
        path.touch()
    # Where no report was, they are somebody else's.
    write_report(tmp_path, evaluation, pictures=1)
    assert all(path.exists() for path in (*old, *others))
    write_report(tmp_path, evaluation, pictures=1)
    assert not any(path.exists() for path in old) and all(path.exists() for path in others)


def test_a_data_set_without_mistakes_or_objects_has_a_page_too(
    evaluation: Evaluation, dataset: Dataset, tmp_path: Path
) -> None:
    bare = dataclasses.replace(
        evaluation,
        mistakes=[[], [], [], []],
        confusion=np.zeros((5, 5), np.int64),
        other_reports=[],
        unscored={"coco": "no such <thing>"},
    )
    write_report(tmp_path, bare)
    page = Page(tmp_path / "report.html")
    assert page.text.count("None.") == 5 and "No numbers of coco: no such <thing>." in page.text


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_told_before_the_work(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else object())
    with pytest.raises(BackendError, match=rf"A report needs {package}.*ssd-deploy\[report\]"):
        check_report(tmp_path)


def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SSDDeployError, match="cannot be written"):
        check_report(tmp_path / "file")
    check_report(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists(), "nothing is left behind"
