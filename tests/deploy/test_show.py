"""The window, on a display of its own that nobody sees."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moving import Seeing, painted
from PIL import ImageGrab

from ssd_deploy.detecting import detect_sources
from ssd_deploy.detector import Detector
from ssd_deploy.show import Window
from ssd_deploy.sources.open import open_sources
from ssd_train.errors import BackendError


@pytest.fixture(scope="module")
def hidden_display() -> Iterator[str]:
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "640x400x24", "-nolisten", "tcp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        yield f":{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def display(hidden_display: str, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    monkeypatch.setenv("DISPLAY", hidden_display)
    return hidden_display


def press(window: Window, *keys: str, after_ms: int = 50) -> None:
    """Press keys while the window waits, the last again and again: a busy display may lose a key."""
    root: Any = window._root

    def press_next(number: int) -> None:
        root.focus_force()
        root.event_generate(keys[min(number, len(keys) - 1)])
        root.after(after_ms, press_next, number + 1)

    root.after(after_ms, press_next, 0)


def test_a_picture_is_shown_as_it_is(display: str) -> None:
    with Window("test") as window:
        assert window.show(painted([((20, 10, 60, 50), 0)]), "a.png")
        screen = np.asarray(ImageGrab.grab(xdisplay=display).convert("RGB"))
    # Wherever the window is: as much red as was painted.
    assert (np.abs(screen.astype(int) - (250, 20, 20)).max(axis=2) < 3).sum() == 40 * 40


def test_a_picture_larger_than_the_screen_is_made_to_fit(display: str) -> None:
    with Window("test") as window:
        assert window.show(np.full((3000, 1000, 3), (10, 200, 30), np.uint8), "a.png")
        screen = np.asarray(ImageGrab.grab(xdisplay=display).convert("RGB"))
    rows, columns = np.nonzero(np.abs(screen.astype(int) - (10, 200, 30)).max(axis=2) < 3)
    # 0.9 of a screen 400 pixels high.
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (360, 120)


@pytest.mark.parametrize(("keys", "is_open"), [(("<space>",), True), (("<Escape>",), False), (("x", "q"), False)])
def test_a_picture_stays_until_a_key(display: str, keys: tuple[str, ...], is_open: bool) -> None:
    with Window("test") as window:
        press(window, *keys)
        assert window.show(painted([]), "a.png", waits=True) is is_open
        assert window.show(painted([]), "b.png") is is_open


def test_closing_the_window_ends_the_run_and_keeps_what_was_done(display: str, tmp_path: Path) -> None:
    with Window("test") as window:
        press(window, "<space>", "<space>", "q", after_ms=300)
        found = detect_sources(
            Detector(Seeing(), batch_size=4),
            open_sources([painted([((20, 10, 40, 30), label)]) for label in (0, 1, 2)] * 3),
            tmp_path / "out",
            viewer=window,
        )
    assert len(found.pictures) == 3 and len(list((tmp_path / "out").glob("*.png"))) == 3


def test_without_a_display_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(BackendError, match="there is no display to show pictures on; leave --show out"):
        Window("test")


def test_a_display_that_does_not_answer_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    monkeypatch.setenv("DISPLAY", ":4711")
    with pytest.raises(BackendError, match="no window can be opened"):
        Window("test")


def test_a_python_without_tkinter_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(__import__("sys").modules, "tkinter", None)
    with pytest.raises(BackendError, match="needs tkinter"):
        Window("test")
