"""What the pages on services and containers show works: the service answers, an image's files are a whole package."""

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_onnx import write_small
from tiny_data import blocks

from ssd_deploy import load_detector

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def dockerfile_lines(instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.+)$", DOCKERFILE, re.MULTILINE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def port(model: Path) -> Iterator[int]:
    """The page's service, as it stands there."""
    page = (ROOT / "docs" / "python-service.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = {"__name__": "service"}
    exec(compile(block, "service.py", "exec"), names)
    server = names["serve"](str(model), port=0)  # type: ignore[operator]
    server.RequestHandlerClass.log_message = lambda *arguments: None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, object]]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_the_service_finds_what_the_detector_finds(port: int, model: Path) -> None:
    picture = blocks(48, 64, 8, 0)
    _, encoded = cv2.imencode(".png", picture[:, :, ::-1])
    status, answer = ask(port, "POST", "/detect", encoded.tobytes())
    expected = load_detector(model, score_threshold=0.5).detect(np.ascontiguousarray(picture))
    assert status == 200
    assert answer == {"detections": json.loads(json.dumps(expected.to_dict()))}
    assert len(expected) > 0


def test_the_service_refuses_what_is_no_picture_and_goes_on(port: int) -> None:
    status, answer = ask(port, "POST", "/detect", b"no picture")
    assert status == 400 and str(answer["error"]).startswith("the picture: not an image")
    assert ask(port, "POST", "/detect")[0] == 400
    assert ask(port, "POST", "/elsewhere", b"x")[0] == 400
    assert ask(port, "GET", "/healthy") == (200, {"network": "small"})
    assert ask(port, "GET", "/")[0] == 404


def test_the_image_is_made_of_files_that_are_here_and_not_ignored() -> None:
    sources = [word for line in dockerfile_lines("COPY") if not line.startswith("--from") for word in line.split()[:-1]]
    assert len(sources) == 6
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_every_stage_is_one_that_was_named_before() -> None:
    named: list[str] = []
    for line in dockerfile_lines("FROM"):
        base, _, name = line.split()
        assert base in named or base.startswith("python:3.11-"), line
        named.append(name)
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= set(named)
    assert named[-1] == "cpu"
    page = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--target (\S+)", DOCKERFILE + page)) <= set(named)
    # Extras that exist.
    extras = set(re.findall(r"'\.\[([\w,-]+)\]'", DOCKERFILE))
    assert extras <= set(re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M))


@pytest.mark.slow
def test_the_copied_files_alone_are_a_package_that_installs_and_runs(model: Path, tmp_path: Path) -> None:
    for line in dockerfile_lines("COPY"):
        if line.startswith("--from"):
            continue
        *sources, target = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, tmp_path / "source" / target, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                (tmp_path / "source").mkdir(exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / "source" / source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-compile"]
    installed = tmp_path / "installed"
    subprocess.run([*pip, "--target", installed, tmp_path / "source"], check=True, cwd=tmp_path)
    code = "import ssd_deploy.bundles as b, sys; sys.exit(not b.__file__.startswith(sys.argv[1]))"
    found = {"PYTHONPATH": str(installed)}
    subprocess.run([sys.executable, "-c", code, installed], check=True, cwd=tmp_path, env=found)
    command = [sys.executable, "-m", "ssd_deploy", "bundle", "triton-pictures", model, "--out", tmp_path / "out"]
    subprocess.run(command, check=True, cwd=tmp_path, env=found, capture_output=True)
    assert (tmp_path / "out" / "model.prepare" / "1" / "model.py").is_file()
