"""Pages in a real browser: a script at the end of a copy does what a person would and tells what it found."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_BROWSER = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on this machine"
)

# A headless window is never narrower than some 500 pixels; a frame in it is.
FRAME = '<!DOCTYPE html><body style="margin:0"><iframe src="probed.html" style="width:{width}px;height:900px;border:0">'


def probe(folder: Path, page: Path, width: int, script: str) -> dict[str, Any]:
    """Open a copy of a page in a window of a width, and return what a script found.

    Args:
        folder: where copies are written; pictures of the page lie beside it.
        script: HTML, which appends `<pre id="probe">` with JSON to the outermost document.
    """
    # The page's own policy allows the probe, since its own script is inline too.
    text = page.read_text(encoding="utf-8").replace(
        "<head>", "<head><script>dialogs = 0; alert = () => dialogs++</script>"
    )
    (folder / "probed.html").write_text(text.replace("</body>", script + "</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width))
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom",
        "--virtual-time-budget=20000", f"--window-size={max(width, 600)},900",
        "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", (folder / "frame.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert "CONSOLE" not in done.stderr, done.stderr
    return result
