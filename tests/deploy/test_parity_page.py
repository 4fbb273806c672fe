"""The page of a parity run: which detections changed, in which pictures, and what it says of them. Fake backends."""

import dataclasses
import html
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import pytest
from browser import NEEDS_BROWSER, probe
from parity_data import SPEC, Row, annotated, detections, run_of, three_pictures
from tiny_data import FakeRunner, blocks, write_image

from ssd_deploy.parity.changed_pictures import change_texts
from ssd_deploy.parity.compare import BackendRun, compare, images_as_dataset
from ssd_deploy.parity.page import write_parity_report
from ssd_deploy.parity.pairs import find_changes
from ssd_deploy.parity.report import ParityOutcome
from ssd_train.datasets.dataset import Dataset
from ssd_train.report.page import DATA_NAME, PAGE_NAME

EVIL = "<script>alert('x')</script>"

# Far apart, so that each has one partner at most.
A, B, C, D = (0, 0, 20, 20), (40, 0, 60, 20), (0, 40, 20, 60), (40, 40, 60, 60)
REFERENCE: list[Row] = [(*A, 0.9, 0), (*B, 0.8, 0), (*C, 0.7, 1), (*D, 0.6, 1)]


def outcome_of(
    dataset: Dataset, candidates: Sequence[Sequence[Sequence[Row]]], *, metric: str | None = None
) -> ParityOutcome:
    """Compare int8 backends that answer each image with rows of its own with REFERENCE in every image."""
    spec = dataclasses.replace(SPEC, class_names=dataset.class_names)
    reference = run_of(FakeRunner(spec, REFERENCE, name="torch (cpu)"), dataset, metric)
    runs: list[BackendRun] = []
    for number, rows in enumerate(candidates):
        runner = FakeRunner(dataclasses.replace(spec, precision="int8"), REFERENCE, name=f"backend {number}")
        run = run_of(runner, dataset, metric)
        runs.append(dataclasses.replace(run, detections=[detections(of_image) for of_image in rows]))
    comparisons = tuple(compare(reference, run, dataset) for run in runs)
    return ParityOutcome(
        reference=reference, comparisons=comparisons, candidates=tuple(runs), skipped=("tensorrt: <b>why</b>",),
        notes=("a note",), dataset=dataset,
    )  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return three_pictures(tmp_path / "images")


def test_each_detection_that_changed_is_told() -> None:
    ours = detections([*REFERENCE, (70, 70, 90, 90, 0.31, 0), (70, 0, 90, 20, 0.2, 0)])
    theirs = detections(
        # A is kept with another score, B moved to an IoU of 15/20, C became cat, D vanished, one crossed by a hair.
        [(80, 40, 99, 60, 0.95, 1), (*A, 0.5, 0), (40, 0, 60, 15, 0.8, 0), (*C, 0.4, 0), (70, 70, 90, 90, 0.29, 0)]
    )
    found = find_changes(ours, theirs, 0.3)
    assert sorted(found.kept.tolist()) == [[0, 1], [4, 4]]
    assert (found.moved.tolist(), found.relabelled.tolist()) == ([[1, 2]], [[2, 3]])
    assert (found.vanished.tolist(), found.appeared.tolist()) == ([3], [0])
    assert found.crossed == 1
    assert change_texts(ours, theirs, found, ("cat", "dog")) == (
        "dog 0.95 appeared",
        "cat 0.80 moved (IoU 0.75)",
        "dog 0.70 became cat 0.40",
        "dog 0.60 vanished",
    )
    empty = detections([])
    assert find_changes(empty, empty, 0.3).counts().total == 0
    assert change_texts(empty, empty, find_changes(empty, empty, 0.3), ()) == ()


def test_a_report_has_the_pictures_that_changed_most_first(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "changed_09_01.jpg").touch()
    (folder / "report.json").touch()
    (folder / "pictures" / "mine.jpg").touch()
    rows = [REFERENCE[:3], REFERENCE, REFERENCE[1:3]]
    outcome = outcome_of(dataset, [rows, [REFERENCE] * 3])
    page = write_parity_report(folder, outcome)
    assert page == folder / PAGE_NAME
    # An older report's picture is gone, a stranger's file is not.
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    assert names == ["changed_01_01.jpg", "changed_01_02.jpg", "mine.jpg"]
    data = json.loads((folder / DATA_NAME).read_text())
    assert data["schema_version"] == 1
    first, second = (comparison.pop("pictures") for comparison in data["comparisons"])
    assert first == [
        {"file": "pictures/changed_01_01.jpg", "image": "2.png", "changes": ["cat 0.90 vanished", "dog 0.60 vanished"]},
        {"file": "pictures/changed_01_02.jpg", "image": "0.png", "changes": ["dog 0.60 vanished"]},
    ]
    assert second == []
    assert {name: data[name] for name in ("verdict", "passed", "skipped")} == {
        "verdict": outcome.verdict(), "passed": False, "skipped": ["tensorrt: <b>why</b>"],
    }  # fmt: skip
    assert data["comparisons"][0]["changes"] == outcome.comparisons[0].changes.to_dict()


def test_the_page_says_what_differs_and_where(dataset: Dataset, tmp_path: Path) -> None:
    text = write_parity_report(tmp_path, outcome_of(dataset, [[REFERENCE[:3]] * 3, [REFERENCE] * 3])).read_text()
    words = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text.partition("</style>")[2])).split())
    assert words.index("FAIL: int8: the detections decided") < words.index("Comparisons")
    assert "backend 0, int8: FAIL" in words and "backend 1, int8: pass" in words
    assert "3 images have changes" in words and "3 of 12 changed (3 vanished)" in words
    assert "Nothing changed: all 12 detections of at least 0.3 are the same on both sides." in words
    assert "tensorrt: <b>why</b>" in words and "Note: a note." in words
    assert "working threshold 0.3" in words
    # Without ground truth there are no columns of a metric: kept, moved, relabelled, vanished, appeared.
    assert rows_of(text, "comparison-1") == [["dog", "3", "0", "0", "3", "0"], ["cat", "6", "0", "0", "0", "0"]]


def rows_of(page: str, section: str) -> list[list[str]]:
    """The cells of the table in a comparison's section."""
    body = page.partition(f'<section id="{section}">')[2].partition("</section>")[0].partition("<tbody>")[2]
    rows = re.findall(r"<tr>(.*?)</tr>", body.partition("</tbody>")[0], re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


def test_classes_are_scored_side_by_side_where_there_is_ground_truth(tmp_path: Path) -> None:
    # The objects of the first picture are where ROWS 0 and 1 of `parity_data` are; neither side has them here but one.
    truth = annotated(three_pictures(tmp_path / "images"))
    reference: list[Row] = [(0, 0, 8, 8, 0.9, 0), (10, 0, 18, 8, 0.8, 1)]
    spec = dataclasses.replace(SPEC, precision="int8")
    runs = [run_of(FakeRunner(*each), truth, "coco") for each in ((SPEC, reference), (spec, reference[:1]))]
    outcome = ParityOutcome(
        reference=runs[0], comparisons=(compare(runs[0], runs[1], truth),), candidates=(runs[1],), skipped=(), notes=(),
        dataset=truth,
    )  # fmt: skip
    text = write_parity_report(tmp_path / "report", outcome).read_text()
    # The dog is found at rank 1 of the reference, and by nobody else.
    dog, cat = rows_of(text, "comparison-1")
    assert dog == ["dog", "100.0000", "0.0000", "-100.0000", "0", "0", "0", "3", "0"]
    assert cat[0] == "cat" and cat[3:] == ["0.0000", "3", "0", "0", "0", "0"]
    assert "Not run" not in text


def test_what_changed_is_marked_on_its_side(dataset: Dataset, tmp_path: Path) -> None:
    moved: list[Row] = [(0, 0, 20, 15, 0.9, 0), *REFERENCE[1:3]]
    write_parity_report(tmp_path, outcome_of(dataset, [[moved, REFERENCE, REFERENCE]]))
    picture = cv2.imread(str(tmp_path / "pictures" / "changed_01_01.jpg"))[:, :, ::-1].astype(int)
    assert picture.shape == (100, 206, 3)

    def is_red(x: int, y: int) -> bool:
        red, green, blue = picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(0)
        return bool(red > 150 and green < 90 and blue < 90)

    # Within three pixels outside of the boxes' edges: the vanished D left alone, the moved A on both sides, C nowhere.
    assert is_red(50, 63) and not is_red(106 + 50, 63)
    assert is_red(14, 23) and is_red(106 + 14, 18)
    assert not is_red(10, 63) and not is_red(106 + 10, 63)


def test_twelve_pictures_are_enough(tmp_path: Path) -> None:
    images = [write_image(tmp_path / "images" / f"{number:02d}.png", blocks(40, 40, 8, number)) for number in range(14)]
    dataset = images_as_dataset(images, SPEC.class_names)
    text = write_parity_report(tmp_path / "report", outcome_of(dataset, [[[]] * 14])).read_text()
    assert len(list((tmp_path / "report" / "pictures").iterdir())) == 12
    assert "14 images have changes" in text and "The 12 with the most are here." in text
    assert "and 1 more" in text, "a caption names three of four changes"


@pytest.fixture
def evil(tmp_path: Path) -> tuple[Path, Path]:
    """A report of classes and files whose names are markup; returns the page and its folder."""
    folder = tmp_path / "images"
    images = [write_image(folder / f"<i>{number}&.png", blocks(100, 100, 20, number)) for number in range(3)]
    dataset = images_as_dataset(images, (EVIL, "w" * 90))
    return write_parity_report(tmp_path / "report", outcome_of(dataset, [[[], REFERENCE[:3], REFERENCE]])), tmp_path


def test_names_are_text_and_everything_is_inside(evil: tuple[Path, Path]) -> None:
    text = evil[0].read_text()
    assert text.count("<script>") == 1 and EVIL not in text and "<i>0" not in text
    assert all(source.startswith("data:") for source in re.findall(r'<img src="([^"]*)"', text))
    links = {html.unescape(link) for link in re.findall(r'href="([^"]+)"', text)}
    assert all(link.startswith(("#", "data:")) or (evil[0].parent / link).is_file() for link in links)
    assert not re.search(r"https?://", text)


def test_the_command_writes_the_page(
    run_cli: Callable[..., tuple[int, str]], model_path: Path, voc_root: Path, tmp_path: Path
) -> None:
    code, text = run_cli(
        "parity", "ssd_300_mobilenet0.25_voc", model_path, "--weights", "random", "--data", voc_root,
        "--report", tmp_path / "report", "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0, text
    page = tmp_path / "report" / PAGE_NAME
    assert f"report: {page}" in text and text.rstrip().endswith("PASS: nothing was lost")
    told = json.loads((tmp_path / "out.json").read_text())
    data = json.loads((tmp_path / "report" / DATA_NAME).read_text())
    assert told["report"] == str(page) and data["verdict"] == told["verdict"]
    words = page.read_text()
    # The stages of float32 have limits, and each is in order.
    assert words.count('<strong class="good">ok</strong>') >= 5 and '<strong class="bad">FAIL' not in words
    assert data["detector"]["weights_sha256"] in words and "onnxruntime (CPU), fp32" in words


def test_a_report_that_could_not_be_written_stops_the_command_first(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    # Before anything is said about the network, which does not exist either.
    assert "cannot be written" in mistake("parity", "no_network", "--report", tmp_path / "file")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    told = mistake("parity", "no_network", "--report", tmp_path / "folder")
    assert told == "Error: A report needs jinja2, which is not installed: pip install 'ssd-deploy[report]'"
    assert not (tmp_path / "folder").exists()


# Sorts the first table by its changed detections, and measures; in a frame, since a window is never this narrow.
PROBE = """<script>
addEventListener("load", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const table = document.querySelector("#comparison-1 table");
  const headers = [...table.tHead.rows[0].cells];
  const column = headers.findIndex((header) => header.textContent === "vanished");
  headers[column].querySelector("button").click();
  const output = parent.document.createElement("pre");
  output.id = "probe";
  output.textContent = JSON.stringify({
    width: innerWidth, needed: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll("body *")].filter((each) => {
      return !each.closest(".scroll") && each.getBoundingClientRect().right > innerWidth + 0.5;
    }).map((each) => each.outerHTML.slice(0, 80)),
    images: [...document.images].map((image) => image.naturalWidth),
    vanished: [...table.tBodies[0].rows].map((row) => row.cells[column].textContent),
  });
  parent.document.body.append(output);
});
</script>"""


@pytest.mark.slow
@NEEDS_BROWSER
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_works_in_a_browser(evil: tuple[Path, Path], width: int) -> None:
    page, folder = evil
    found = probe(folder / "report", page, width, PROBE)
    assert found["width"] == width and found["needed"] <= width and found["wide"] == []
    assert len(found["images"]) == 2 and all(found["images"])
    # Three dogs vanished, of which one in the second picture; two cats in the first.
    assert found["vanished"] == ["2", "3"]
