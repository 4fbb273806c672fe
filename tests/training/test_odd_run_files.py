"""Files of a run folder that somebody edited: one sentence or a warning, never the end of a training."""

import json
import logging
from pathlib import Path

import pytest

from ssd_train.errors import SSDDeployError
from ssd_train.training.config import FIELDS, read_config, resolve
from ssd_train.training.loggers import IDS_NAME, LoggedRun, Loggers
from ssd_train.training.run_folder import MetricsWriter, RunFolder

GOOD = [
    {"kind": "step", "step": 5, "loss": 1.0},
    {"kind": "epoch", "step": 6, "epoch": 0, "cls_loss": 2.0, "box_loss": None, "lr": 0.1},
    {"kind": "validation", "step": 6, "epoch": 0, "scores": {"mAP": 0.5}},
]
FOREIGN = [
    "[]",
    "null",
    "5",
    '"x"',
    "{}",
    '{"step": null}',
    '{"step": "5"}',
    '{"step": 1e999}',
    '{"step": -1}',
    '{"step": 1.5}',
    '{"step": true}',
    f'{{"step": {"9" * 5000}}}',
    '{"step": 1, "kind": "epoch", "epoch": "a"}',
    '{"step": 1, "kind": "epoch", "epoch": 1, "cls_loss": 1e308}',
    '{"step": 1, "kind": "epoch", "cls_loss": "x"}',
    '{"step": 1, "kind": "validation", "scores": []}',
    '{"step": 1, "kind": "validation", "scores": {"a": "x"}}',
    "[" * 100_000,
    '{"step": 1, "step": 2}',
    '{"step": NaN}',
    '{"kind": "step", "st',
    "\udcff\0",
]
# A training could not have written these, but they do no harm.
ODD = [
    '{"step": 1, "kind": 5}', '{"step": 1, "kind": []}', '{"step": 1, "kind": "epoch"}',
    '{"step": 1, "kind": "validation"}', '{"step": 1, "kind": "validation", "epoch": 1, "scores": {}}',
    '{"step": 1, "kind": "validation", "epoch": 1, "scores": {"$a_{": 0.5, "\\ud800\\u0000\\n": null}}',
    '{"step": 1, "kind": "epoch", "epoch": 999999999999999, "cls_loss": -1e30, "box_loss": 1e30, "lr": -1}',
]  # fmt: skip


@pytest.fixture(autouse=True)
def without_pictures() -> None:
    """Curves are drawn here."""


def run_folder(path: Path, lines: list[str]) -> RunFolder:
    text = "\n".join([*lines, *map(json.dumps, GOOD)]) + "\n"
    (path / "metrics.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    return RunFolder(path)


@pytest.mark.parametrize("line", FOREIGN, ids=lambda line: ascii(line)[:40])
def test_a_foreign_line_is_left_out_with_one_warning(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_folder(tmp_path, [line])
    for _ in range(3):
        assert folder.read_metrics() == GOOD
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'metrics.jsonl'}: left out 1 lines that are none of a training's"
    ]
    folder.keep_metrics_until(6, with_validation=False)
    assert folder.read_metrics() == GOOD[:2]


def test_curves_are_drawn_of_whatever_is_left(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = run_folder(tmp_path, [*FOREIGN, *ODD])
    MetricsWriter(folder, "a$b_{ \ud800 on x", {"logger": "none"}, 6).draw_curves()
    assert (tmp_path / "curves.png").stat().st_size > 1000


VALUES = [
    None, True, 0, -1, 10**400, 1e308, "", "a\0b", "a\ud800", "x" * 5000, [], [1], [10**30], {}, {"a": 1}, 1.5, 2**63,
    ["a"],
]  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_any_value_of_any_setting_is_taken_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for value in VALUES:
        path.write_text(json.dumps({"network": "a", "dataset": "b", name: value}), encoding="utf-8")
        try:
            resolve(path, {})
        except SSDDeployError as error:
            assert len(str(error)) < 1500 and "\n" not in str(error) and "\0" not in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "the configuration is not JSON"),
        (b'{"lr": NaN}', "has the number 'NaN', which is not finite"),
        (b'{"lr": 1e999}', "has the number '1e999'"),
        (b'{"lr": ' + b"9" * 5000 + b"}", "has the number '999"),
        (b'{"lr": 1, "lr": 2}', "has 'lr' twice"),
        (b'{"out": "a\\u0000b"}', r"out is 'a\\x00b', expected"),
        (b'{"' + b"x" * 100_000 + b'": 1}', "has the unknown option 'xxx"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_configuration_that_cannot_be_used_is_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(SSDDeployError, match=message) as caught:
        read_config(path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("content", [b"", b"[]", b'{"wandb": 5}', b"[" * 100_000, b"\xff"])
def test_loggers_whose_names_of_a_run_cannot_be_read_begin_a_new_one(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / IDS_NAME).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        Loggers("none", LoggedRun(folder=tmp_path, settings={}, step=5))
    assert "loggers begin a new run" in caplog.text
