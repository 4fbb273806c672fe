"""Text in pictures, legible in any script and with every OpenCV.

OpenCV draws ASCII; from version 5 on it has glyphs of Latin, Greek, Cyrillic and CJK too. Where it lacks one, or would
write it in the wrong direction, an installed font draws the word with Pillow, and where none has it, its reading in
ASCII letters is drawn.
"""

import functools
import itertools
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

FONT = cv2.FONT_HERSHEY_SIMPLEX

# Where systems and users keep their fonts; folders of other systems are simply not there.
FONT_FOLDERS = (
    "~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts",
    "~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts",
    "~/AppData/Local/Microsoft/Windows/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
# Fonts that have a box for every character there is.
_PLACEHOLDERS = ("lastresort", "adobeblank", "notdef")
# Words in a font's file name that say that it is not the plain one.
_STYLES = (
    "bold", "italic", "oblique", "condensed", "mono", "light", "thin", "black", "serif", "math", "medium", "heavy",
)  # fmt: skip

# Pixels at OpenCV's scale 1: a font's size whose capitals are as high as OpenCV's, and the gap between words.
_FONT_SIZE, _GAP = 29, 10

# No character, so that what a font draws for it is what it draws for all that it lacks.
_MISSING = "\U0010fffe"


class _Run(NamedTuple):
    """Words that are drawn by one font; None is OpenCV's."""

    text: str
    font: Path | None


def text_size(text: str, scale: float, thickness: int) -> tuple[tuple[int, int], int]:
    """Return what `cv2.getTextSize` would: ((width, height above the base line), depth below it), in pixels."""
    if text.isascii():
        size, depth = cv2.getTextSize(text, FONT, scale, thickness)
        return (size[0], size[1]), depth
    sizes = [_run_size(run, scale, thickness) for run in _runs(text)]
    widths, heights, depths = zip(*((width, height, depth) for (width, height), depth in sizes), strict=True)
    return (sum(widths) + _gap(scale) * (len(sizes) - 1), max(heights)), max(depths)


def put_text(
    canvas: NDArray[np.uint8],
    text: str,
    corner: tuple[int, int],
    scale: float,
    ink: tuple[int, int, int],
    thickness: int,
) -> None:
    """Draw text into an (H, W, 3) picture, as `cv2.putText` does.

    Args:
        canvas: changed in place.
        corner: x of the text's left end and y of its base line.
        ink: colour in the order of the canvas' channels.
        thickness: of OpenCV's lines.
    """
    if text.isascii():
        cv2.putText(canvas, text, corner, FONT, scale, ink, thickness, cv2.LINE_AA)
        return
    x, y = corner
    for run in _runs(text):
        if run.font is None:
            cv2.putText(canvas, run.text, (x, y), FONT, scale, ink, thickness, cv2.LINE_AA)
        else:
            mask, left, top = _mask(run, _pixels(scale))
            _blend(canvas, mask, x + left, y + top, ink)
        x += _run_size(run, scale, thickness)[0][0] + _gap(scale)


@functools.lru_cache(maxsize=4096)
def _runs(text: str) -> tuple[_Run, ...]:
    # Letters with their accents as one character; without the wish for a coloured emoji.
    composed = unicodedata.normalize("NFC", text).replace("\ufe0f", "")
    words = [_drawable(word) for word in composed.split()]
    grouped = itertools.groupby(words, key=lambda run: run.font)
    return tuple(_Run(" ".join(run.text for run in group), font) for font, group in grouped) or (_Run("", None),)


@functools.lru_cache(maxsize=4096)
def _drawable(word: str) -> _Run:
    """Return a word as it can be drawn legibly, and by what."""
    if word.isascii():
        return _Run(word, None)
    is_plain = _runs_left_to_right_letter_by_letter(word)
    if is_plain and all(map(_opencv_has, word)):
        return _Run(word, None)
    if is_plain or _pillow_shapes():
        font = next((path for path in _fonts() if _font_has(path, word)), None)
        if font is not None:
            return _Run(word, font)
    from anyascii import anyascii

    # What has no reading either, such as an icon of a company's own, is called by its number.
    return _Run(anyascii(word).strip() or "+".join(f"U{ord(character):X}" for character in word), None)


def _runs_left_to_right_letter_by_letter(word: str) -> bool:
    """Whether glyphs side by side are the word: no Arabic, which joins and goes left, no marks on other letters."""
    return all(
        unicodedata.bidirectional(character) not in ("R", "AL", "AN")
        and unicodedata.category(character) not in ("Mn", "Mc", "Me", "Cf")
        for character in word
    )


@functools.lru_cache(maxsize=4096)
def _opencv_has(character: str) -> bool:
    """Whether OpenCV draws a character, and neither nothing nor question marks: one, or before version 5 one a byte."""
    drawn = _by_opencv(character)
    marks = ("?", "?" * len(character.encode()))
    return bool(drawn.any()) and not any(np.array_equal(drawn, _by_opencv(each)) for each in marks)


def _by_opencv(text: str) -> NDArray[np.uint8]:
    canvas = np.zeros((60, 160), np.uint8)
    cv2.putText(canvas, text, (10, 40), FONT, 1.0, 255, 1, cv2.LINE_AA)
    return canvas


def _pillow_shapes() -> bool:
    """Whether Pillow joins, orders and stacks the letters of every script; it needs the system's FriBidi for that."""
    from PIL import features

    return bool(features.check("raqm"))


@functools.lru_cache(maxsize=1)
def _fonts() -> tuple[Path, ...]:
    """Return the installed fonts, plain ones first."""
    found = {
        path
        for folder in FONT_FOLDERS
        for path in Path(os.path.expanduser(folder)).rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
        and not path.stem.lower().replace("-", "").startswith(_PLACEHOLDERS)
    }
    return tuple(sorted(found, key=lambda path: (any(style in path.stem.lower() for style in _STYLES), str(path))))


@functools.lru_cache(maxsize=4096)
def _font_has(path: Path, word: str) -> bool:
    """Whether a font has a glyph for every character of a word."""
    from PIL import ImageFont

    try:
        font = ImageFont.truetype(path, 32, layout_engine=ImageFont.Layout.BASIC)
        missing = bytes(font.getmask(_MISSING))
        glyphs = [bytes(font.getmask(character)) for character in word if unicodedata.category(character) != "Cf"]
    except OSError:  # broken, or made of pictures of another size
        return False
    return bool(glyphs) and all(any(glyph) and glyph != missing for glyph in glyphs)


def _pixels(scale: float) -> int:
    return max(1, round(_FONT_SIZE * scale))


def _gap(scale: float) -> int:
    return round(_GAP * scale)


def _run_size(run: _Run, scale: float, thickness: int) -> tuple[tuple[int, int], int]:
    if run.font is None:
        (width, height), depth = cv2.getTextSize(run.text, FONT, scale, thickness)
        return (width, height), depth
    mask, left, top = _mask(run, _pixels(scale))
    return (mask.shape[1] + left, max(0, -top)), max(0, mask.shape[0] + top)


@functools.lru_cache(maxsize=1024)
def _mask(run: _Run, pixels: int) -> tuple[NDArray[np.uint8], int, int]:
    """Return how much ink a run leaves at each pixel, and where its left top is, from the start of its base line."""
    from PIL import Image, ImageDraw, ImageFont

    assert run.font is not None
    font = ImageFont.truetype(run.font, pixels)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(run.text, anchor="ls"))
    picture = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(picture).text((-left, -top), run.text, fill=255, font=font, anchor="ls")
    return np.asarray(picture), left, top


def _blend(canvas: NDArray[np.uint8], mask: NDArray[np.uint8], x: int, y: int, ink: tuple[int, int, int]) -> None:
    """Colour a canvas where a mask lies on it."""
    height, width = canvas.shape[:2]
    rows, columns = slice(max(0, y), min(height, y + len(mask))), slice(max(0, x), min(width, x + mask.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    share = mask[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x, None] / np.float32(255)
    below = canvas[rows, columns]
    canvas[rows, columns] = np.rint(below + share * (np.array(ink, np.float32) - below))
