"""Names in any script are legible: neither question marks nor boxes, and no two names look the same."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_train import lettering
from ssd_train.detections import Detections
from ssd_train.draw import draw
from ssd_train.lettering import FONT, chart_label, put_text, text_size

NAMES = {
    "German": "Fußgänger",
    "Vietnamese": "con mèo",
    "Greek": "γάτα",
    "Russian": "кошка",
    "Chinese": "猫",
    "Japanese": "ねこ",
    "Korean": "고양이",
    "Hindi": "बिल्ली",
    "Thai": "แมว",
    "Tamil": "பூனை",
    "Georgian": "კატა",
    "Armenian": "կատու",
    "Hebrew": "חתול",
    "Arabic": "قطة",
    "Amharic": "ድመት",
    "an emoji": "🐈",
    "of a company's own": "\ue123",
}
BOX = np.array([[10, 60, 280, 140]], np.float32)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """What a test pretends about fonts is not remembered."""
    caches = [each for each in vars(lettering).values() if hasattr(each, "cache_clear")]
    assert len(caches) == 6
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(params=["fonts and OpenCV of this machine", "no fonts", "an OpenCV of ASCII alone", "neither"])
def _machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param in ("no fonts", "neither"):
        monkeypatch.setattr(lettering, "FONT_FOLDERS", ())
    if request.param in ("an OpenCV of ASCII alone", "neither"):
        monkeypatch.setattr(lettering, "_opencv_has", lambda character: False)


def picture_of(name: str) -> np.ndarray:
    """Return the part of a picture where the name of a box stands."""
    found = Detections(BOX, np.array([0.5], np.float32), np.array([0]))
    return draw(np.full((200, 300, 3), 90, np.uint8), found, (name,), with_scores=False)[:60]


@pytest.mark.usefixtures("_machine")
def test_every_name_is_drawn_and_none_looks_like_another_or_like_nothing_known() -> None:
    drawn = {name: picture_of(name) for name in NAMES.values()}
    # What OpenCV and fonts draw for what they lack, and for nothing.
    lacking = [picture_of("?" * count) for count in range(1, 30)] + [picture_of(" ")]
    for font in lettering._fonts():
        run = lettering._Run("\U0010fffe", font)
        assert not any(np.array_equal(lettering._mask(run, 12)[0], each) for each in drawn.values())
    pictures = [*drawn.values(), *lacking]
    for index, one in enumerate(drawn.values()):
        assert not any(np.array_equal(one, other) for other in pictures[index + 1 :])


@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_the_plate_is_as_large_as_the_name(name: str) -> None:
    canvas = np.zeros((200, 600, 3), np.uint8)
    (width, height), depth = text_size(f"{name} 0.98", 1.5, 1)
    put_text(canvas, f"{name} 0.98", (50, 100), 1.5, (255, 255, 255), 1)
    rows, columns = np.nonzero(canvas.max(axis=2) > 128)
    assert columns.min() >= 50 - 3 and columns.max() <= 50 + width + 3
    assert columns.max() - columns.min() > 0.85 * width
    assert rows.min() >= 100 - height - 5 and rows.max() <= 100 + depth + 5


def test_no_font_is_taken_for_what_it_lacks() -> None:
    """Each character's glyph differs from the one for what is no character, told by FreeType's own table."""
    fontTools = pytest.importorskip("fontTools.ttLib", reason="fontTools is not installed")
    fonts = lettering._fonts()
    if not fonts:
        pytest.skip("no fonts are installed")
    for path in fonts[:5]:
        known = fontTools.TTFont(path, fontNumber=0).getBestCmap()
        for character in "".join(NAMES.values()).replace(" ", ""):
            assert lettering._font_has(path, character) == (ord(character) in known), (path, character)


def test_ascii_is_what_opencv_draws() -> None:
    expected, drawn = np.zeros((60, 300, 3), np.uint8), np.zeros((60, 300, 3), np.uint8)
    cv2.putText(expected, "dining table 0.98", (5, 40), FONT, 0.7, (9, 200, 30), 2, cv2.LINE_AA)
    put_text(drawn, "dining table 0.98", (5, 40), 0.7, (9, 200, 30), 2)
    np.testing.assert_array_equal(drawn, expected)
    assert text_size("dining table 0.98", 0.7, 2) == cv2.getTextSize("dining table 0.98", FONT, 0.7, 2)


def test_arabic_letters_join_and_go_left() -> None:
    if not lettering._pillow_shapes() or not any(lettering._font_has(path, "اس") for path in lettering._fonts()):
        pytest.skip("no installed font has Arabic, or Pillow cannot shape it")

    def ink(text: str) -> np.ndarray:
        canvas = np.zeros((100, 200, 3), np.uint8)
        put_text(canvas, text, (20, 60), 1.5, (255, 255, 255), 1)
        columns = np.flatnonzero(canvas.any(axis=(0, 2)))
        return canvas[:, columns.min() : columns.max() + 1, 0] > 128

    # The first letter, an alef, is a narrow and high stroke; the second, a seen, is wide and low.
    first = ink("اس")
    heights = np.array([np.ptp(np.flatnonzero(column)) if column.any() else 0 for column in first.T])
    assert heights.argmax() > 0.7 * len(heights)
    # Letters that join are narrower than they are alone.
    assert ink("سسس").shape[1] < 0.9 * 3 * ink("س").shape[1]


def test_a_name_that_nobody_has_a_font_for_is_read_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "FONT_FOLDERS", ())
    monkeypatch.setattr(lettering, "_opencv_has", lambda character: False)
    for name, reading in (("кошка 2", "koshka 2"), ("Fußgänger", "Fussganger"), ("猫", "Mao"), ("\ue123", "UE123")):
        np.testing.assert_array_equal(picture_of(name), picture_of(reading))


def test_words_are_drawn_by_what_has_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_fonts", lambda: (Path("greek.ttf"), Path("all.ttf")))
    monkeypatch.setattr(lettering, "_opencv_has", lambda character: False)
    monkeypatch.setattr(lettering, "_font_has", lambda path, word: path.stem == "all" or "γ" in word)
    runs = [(run.text, run.font and run.font.stem) for run in lettering._runs("big γάτα γη кошка 0.5 x")]
    assert runs == [("big", None), ("γάτα γη", "greek"), ("кошка", "all"), ("0.5 x", None)]


def test_without_shaping_joined_letters_are_read_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_pillow_shapes", lambda: False)
    monkeypatch.setattr(lettering, "_font_has", lambda path, word: True)
    assert lettering._runs("قطة")[0].font is None and lettering._runs("قطة")[0].text.isascii()


def test_broken_fonts_and_fonts_of_boxes_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("broken.ttf", "LastResort.otf", "AdobeBlank.otf", "readme.txt"):
        (tmp_path / name).write_bytes(b"no font")
    monkeypatch.setattr(lettering, "FONT_FOLDERS", (str(tmp_path), str(tmp_path / "missing")))
    assert [path.name for path in lettering._fonts()] == ["broken.ttf"]
    assert not lettering._font_has(tmp_path / "broken.ttf", "ж")


def test_a_name_that_reaches_over_the_edge_is_cut() -> None:
    for x, y in ((-30, 20), (290, 20), (5, -2), (5, 400), (400, 20)):
        canvas = np.zeros((60, 300, 3), np.uint8)
        put_text(canvas, "კატა կատու", (x, y), 1.0, (255, 255, 255), 1)
        assert canvas.shape == (60, 300, 3)


# Drawn in a process of its own: one of these ended it.
UNDRAWABLE = [
    "a\ud800",
    "\udfff\udfff",
    "\ue123\ud83d",
    "\0",
    "a\0b",
    "",
    " ",
    "\n",
    "a\nb\tc",
    "\x7f\x85",
    "\u2028",
    "\u202eabc",
    "\u200b",
    "\u200d\u200d",
    "\U0010ffff",
    "\ufffe",
    "\U000e0041",
    "e" + "\u0301" * 5000,
    "x" * 10_000,
    "猫" * 10_000,
    "👩‍👩‍👧‍👦",
    "🐈\ufe0f",
    "قطة" * 100,
]
DRAWING = """
import json, sys
import numpy as np
from ssd_train.detections import Detections
from ssd_train.draw import draw
from ssd_train.lettering import put_text, text_size
canvas = np.zeros((100, 200, 3), np.uint8)
for name in [*json.load(sys.stdin), None, 5]:
    found = Detections(np.array([[10, 60, 180, 90]], np.float32), np.array([0.5], np.float32), np.array([0]), (name,))
    assert found.draw(canvas).any() and draw(canvas, found, (name,), with_scores=False).any()
    if isinstance(name, str):
        (width, height), depth = text_size(name, 1, 1)
        assert 0 <= width < 20_000, width
        put_text(canvas.copy(), name, (5, 50), 1, (255, 255, 255), 1)
print("drawn")
"""


def test_any_name_is_drawn_and_ends_no_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRAWING], input=json.dumps(UNDRAWABLE), capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.strip()) == (0, "drawn"), done.stderr


def test_the_score_is_seen_behind_a_name_of_any_length() -> None:
    drawn = []

    def keep(canvas: np.ndarray, text: str, *rest: object) -> None:
        drawn.append(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd_train.draw.put_text", keep)
        picture_of_scored("x" * 10_000)
    assert len(drawn[0]) < 200 and drawn[0].endswith("... 0.50")


def picture_of_scored(name: str) -> None:
    Detections(BOX, np.array([0.5], np.float32), np.array([0]), (name,)).draw(np.zeros((200, 300, 3), np.uint8))


def test_a_label_without_a_name_is_drawn_by_its_number_whatever_it_is() -> None:
    found = Detections(BOX, np.array([0.5], np.float32), np.array([10**12]), ("a",))
    assert found.draw(np.zeros((200, 300, 3), np.uint8)).any()
    assert draw(np.zeros((200, 300, 3), np.uint8), found, ()).any()


@pytest.mark.parametrize("name", ["$a_{", "_hidden", "a\ud800", "\\$x", "x" * 1000])
def test_a_label_of_a_chart_is_text_whatever_it_holds(name: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], label=chart_label(name, 50))
    axes.set_title(chart_label(name, 50))
    assert len(figure.legend().get_texts()) == 1
    canvas.draw()
