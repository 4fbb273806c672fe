"""What docs/runtimes.md shows in Python, for Node.js and for a browser runs as it stands there, and finds the same."""

import contextlib
import functools
import http.server
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import BROWSER, NEEDS_BROWSER
from numpy.typing import NDArray
from runtimes import FOLDER, NODE, REPOSITORY

from ssd_deploy import load_detector
from ssd_train.detections import Detections
from ssd_train.preprocess import load_image

PAGE = (REPOSITORY / "docs" / "runtimes.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(files: Mapping[str, Path], pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of 8-bit pixels and a picture under the page's names, as it is and in the detector's size."""
    root = tmp_path_factory.mktemp("page")
    shutil.copy(files["fp32-uint8"], root / "detector.onnx")
    shutil.copy(pictures[0], root / "photo.jpg")
    small = cv2.resize(load_image(pictures[0]), (300, 300), interpolation=cv2.INTER_AREA)
    (root / "photo.rgb").write_bytes(small.tobytes())
    cv2.imwrite(str(root / "photo.png"), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    (root / "node_modules").symlink_to(FOLDER / "npm" / "node_modules")
    return root


@pytest.fixture(scope="module")
def expected(folder: Path) -> Detections:
    found = load_detector(folder / "detector.onnx").detect(folder / "photo.png")
    assert (found.scores > 0.5).any()
    return found


def check_rows(lines: list[str], expected: Detections) -> None:
    """Each line is a label, a score and a box in input pixels."""
    rows = np.array([[float(value) for value in line.split()] for line in lines])
    np.testing.assert_array_equal(rows[:, 0], expected.labels)
    np.testing.assert_allclose(rows[:, 1], expected.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(rows[:, 2:], expected.boxes, rtol=0, atol=1e-3)


def test_python(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    first, *others = blocks("python")
    exec(compile(first, "docs/runtimes.md", "exec"), names)
    found = [one for one in load_detector("detector.onnx").detect("photo.jpg") if one.score > 0.5]
    lines = capsys.readouterr().out.replace("\n ", " ").splitlines()
    assert len(found) > 0 and [line.split()[0] for line in lines] == [one.class_name for one in found]
    boxes = [np.array(re.findall(r"-?[\d.]+(?:e[+-]\d+)?", line.split("[")[1]), float) for line in lines]
    np.testing.assert_allclose(boxes, [one.box for one in found], rtol=1e-6, atol=2e-3)

    outputs: list[NDArray[Any]] = [names[name] for name in ("boxes", "scores", "labels")]
    assert len(others) == 2
    for block in others:
        if "cv2" in block and int(cv2.__version__.split(".")[0]) < 5:
            continue
        exec(compile(block, "docs/runtimes.md", "exec"), names)
        for name, values in zip(("boxes", "scores", "labels"), outputs, strict=True):
            np.testing.assert_allclose(names[name], values, rtol=0, atol=1e-3)


def test_node(folder: Path, expected: Detections) -> None:
    (block,) = blocks("js")
    (folder / "detect.mjs").write_text(block, encoding="utf-8")
    done = subprocess.run([str(NODE), "detect.mjs"], cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    check_rows(done.stdout.splitlines(), expected)


@NEEDS_BROWSER
def test_a_browser(folder: Path, expected: Detections) -> None:
    (block,) = blocks("html")
    # What the page shows is sent when it is there, since nothing else says when that is.
    told = 'await fetch("/found", { method: "POST", body: document.body.innerText });\n</script>'
    (folder / "page.html").write_text(block.replace("</script>", told), encoding="utf-8")
    found: queue.Queue[str] = queue.Queue()
    assert BROWSER is not None
    with served(folder, found) as address:
        command = [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}", f"{address}/page.html",
        ]  # fmt: skip
        with (folder / "browser.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as browser:
            try:
                text = found.get(timeout=100)
            except queue.Empty:
                pytest.fail((folder / "browser.log").read_text()[-2000:])
            finally:
                browser.terminate()
    check_rows(text.splitlines(), expected)


@contextlib.contextmanager
def served(folder: Path, found: "queue.Queue[str]") -> Iterator[str]:
    """Serve a folder on this machine alone, since a browser reads no module and no model from a file's address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            found.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
