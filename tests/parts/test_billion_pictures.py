"""The page about many machines shows what the script computes from the measured rates, and that is right."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "many-machines.md"


def computed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr("sys.argv", ["billion_pictures.py", *map(str, words)])
    runpy.run_path(str(ROOT / "benchmarks" / "billion_pictures.py"), run_name="__main__")
    return capsys.readouterr().out


def test_the_page_shows_what_was_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = computed(monkeypatch, capsys)
    assert f"<!-- billion_pictures.py -->\n{text}<!-- end -->" in PAGE.read_text(encoding="utf-8")


def test_hours_bytes_and_parts_follow_from_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """10 pictures a second and core, 100 kB each: 36,000 pictures are an hour of a core."""
    row: dict[str, Any] = {
        **{"name": "Ray", "cores": 1, "actors": 1, "actor_pictures_per_second": 10.0, "bytes_out": 50.0},
        **{"seconds": 20.0, "pictures_per_second": 5.0, "times_one_core": 1.0, "rss_mb": 300.0, "pss_mb": 200.0},
    }
    steps = {"load_ms": 15.0, "preprocess_ms": 10.0, "network_ms": 75.0}
    results = {
        **{"environment": {"cpu": "CPU"}, "network": "ssd", "pictures": 100, "image_size": [960, 1280]},
        **{"commands": [row], "steps": steps, "bytes_in": 1e5, "driver_parts_per_second": 20.0},
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- billion_pictures.py -->\nold\n<!-- end -->\nafter\n")
    words = ("--from", path, "--pictures", 36e6, "--cores", 10, "--part-size", 6000, "--write", page)
    text = computed(monkeypatch, capsys, *words)
    assert "100 pictures of 1280x960" in text and "| Ray | 20.0 | 5.0 | 1.00 | 300 / 200 |" in text
    assert "**1,000 core-hours**; 4 TB are read and 2 GB written" in text and "are 25% of its work" in text
    assert "each of which takes a core 10.0 minutes" in text
    assert re.findall(r"\| 10 \| .*", text) == ["| 10 | 10.0 | 1,000 | 0.10 | 0.05 | 0.17 |"]
    assert "each GB/s that it reads feeds 1,000 cores" in text and "it keeps up with 12,000 cores" in text
    # 16 cores that load 40 a second each.
    assert "Beside a GPU 16 such cores load and pre-process 640 pictures/s, 36,000,000 in\n  16 hours" in text
    assert page.read_text() == f"before\n<!-- billion_pictures.py -->\n{text}<!-- end -->\nafter\n"
