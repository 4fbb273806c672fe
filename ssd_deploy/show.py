"""A window that shows pictures as they are detected in."""

import os
import sys
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.errors import BackendError

# Share of the screen that a picture may fill; it is made smaller for that, never larger.
SCREEN_SHARE = 0.9

# Between looks at the keyboard, while a picture stays.
KEY_WAIT_S = 0.02

END_KEYS = ("<Key-q>", "<Escape>")
NEXT_KEYS = ("<space>", "<Return>", "<Right>")


class Window:
    """A window of the desktop, made of Python's own tkinter; a context manager.

    Of cameras and videos it shows each frame as it comes; a picture stays until space, return or the right arrow. q,
    escape, or closing the window is the end.

    Args:
        title: of the window.

    Raises:
        BackendError: there is no display, or this Python has no tkinter.
    """

    def __init__(self, title: str) -> None:
        self._root, self._title = _open_root(), title
        import tkinter

        self._photo_image: Any = None
        self._root.title(title)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self.is_open, self._is_next = True, False
        for key in END_KEYS:
            self._root.bind(key, lambda _: self._end())
        for key in NEXT_KEYS:
            self._root.bind(key, lambda _: self._go_on())
        self._root.protocol("WM_DELETE_WINDOW", self._end)

    def show(self, image: NDArray[np.uint8], name: str, *, waits: bool = False) -> bool:
        """Show an (H, W, 3) RGB picture.

        Args:
            waits: until a key, or the end.

        Returns:
            Whether the window is still open.
        """
        if not self.is_open:
            return False
        from PIL import Image, ImageTk

        self._root.title(f"{self._title}: {name}" + (" (space: next, q: end)" if waits else ""))
        # Kept, since tkinter does not, and an image that is collected leaves the window empty.
        self._photo_image = ImageTk.PhotoImage(Image.fromarray(self._fitted(image)), master=self._root)
        self._label.configure(image=self._photo_image)
        self._is_next = not waits
        self._root.update()
        while self.is_open and not self._is_next:
            self._root.update()
            time.sleep(KEY_WAIT_S)
        return self.is_open

    def close(self) -> None:
        """Close it; may be called twice."""
        if self._root is not None:
            self._end()
            self._photo_image = None
            self._root.destroy()
            self._root = None

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        self.is_open = False

    def _go_on(self) -> None:
        self._is_next = True

    def _fitted(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        room = SCREEN_SHARE * min(self._root.winfo_screenheight() / height, self._root.winfo_screenwidth() / width)
        if room >= 1:
            return image
        size = max(1, int(width * room)), max(1, int(height * room))
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _open_root() -> Any:
    """Return tkinter's root window. Raises BackendError where there can be none."""
    is_x_or_wayland = sys.platform.startswith("linux") or "bsd" in sys.platform
    if is_x_or_wayland and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise BackendError("there is no display to show pictures on; leave --show out, and save them")
    try:
        import tkinter
    except ImportError as error:
        raise BackendError(
            "a window needs tkinter, which this Python was built without; install it (on Debian and Ubuntu: "
            "apt install python3-tk), or leave --show out"
        ) from error
    try:
        return tkinter.Tk()
    except tkinter.TclError as error:
        raise BackendError(f"no window can be opened ({error}); leave --show out, and save pictures") from error
