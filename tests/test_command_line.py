"""What all commands share: options made of dataclasses, results for people and programs, one sentence for a mistake."""

import dataclasses
import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from ssd_train.command_line import Result, add_command, check_results, written
from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.options import check_ranges, option
from ssd_train.standard_streams import ESCAPE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baking:
    loaves: int = option(1, "How many.", least=1, most=9)
    heat: float = option(200.0, "Degrees.", names=("--temperature",), above=0)
    flour: str = option("rye", "What of.", choices=("rye", "wheat"))
    salt: bool = option(True, "With salt.")
    minutes: tuple[int, ...] = option((40, 10), "Stages.")
    seeds: tuple[str, ...] = option((), "On top.")
    note: Path | None = option(None, "A file.")
    resume: str = option("no", "auto, or a file.")
    unseen: int = 3

    def __post_init__(self) -> None:
        check_ranges(self, BackendError)
        if self.flour == "wheat" and self.loaves > 5:
            raise BackendError("6 loaves of wheat do not fit", arguments=("loaves", "flour", "nothing_known"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing:
    """Shares a field with the other."""

    loaves: int = option(1, "How many.", least=1)


def bake(
    ctx: typer.Context, baking: Baking, packing: Packing, names: Annotated[list[str] | None, typer.Argument()] = None
) -> Result:
    """Bake."""
    logging.getLogger("export").info("kneading")
    logging.getLogger("ssd_train").warning("hot")
    data = dataclasses.asdict(baking) | {"packed": packing.loaves, "names": names, "nan": float("nan")}
    data["written"] = sorted(written(ctx))
    return Result(text="done", data=data | {"note": str(baking.note)}, exit_code=baking.loaves - 1)


def call(*arguments: object) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    add_command(app, bake)
    result = CliRunner().invoke(app, ["bake", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def data_of(*arguments: object) -> dict[str, Any]:
    return json.loads(call(*arguments, "--json", "-").stdout)


def test_without_options_the_dataclasses_defaults_hold() -> None:
    data = data_of()
    expected = dataclasses.asdict(Baking()) | {"minutes": [40, 10], "seeds": [], "note": "None"}
    assert {name: data[name] for name in expected} == expected
    assert data["packed"] == 1 and data["written"] == ["json"]


def test_options_reach_every_dataclass_that_has_the_field() -> None:
    data = data_of(
        "--loaves", 1, "--temperature", 180.5, "--flour", "wheat", "--no-salt", "--minutes", "30,5", "--seeds", "a",
        "--seeds", "b", "--note", "n.txt", "x", "y",
    )  # fmt: skip
    assert (data["loaves"], data["packed"], data["heat"], data["flour"]) == (1, 1, 180.5, "wheat")
    assert (data["salt"], data["minutes"], data["seeds"]) == (False, [30, 5], ["a", "b"])
    assert (data["note"], data["names"]) == ("n.txt", ["x", "y"])
    # Given, though it has its default's value.
    assert "loaves" in data["written"] and "resume" not in data["written"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--loaves", 0], "'--loaves': 0 is not 1 to 9"),
        (["--temperature", "nan"], "'--temperature': nan is not above 0"),
        (["--flour", "oat"], "'--flour': oat is not rye or wheat"),
        (["--minutes", "1,x"], "'--minutes'"),
        (["--minutes", ","], "'--minutes'"),
        (["--loaves", 1, "--loaves", 2], "--loaves is given twice"),
        (["--salt", "--no-salt"], "--salt is given twice"),
        (["--nosuch"], "--nosuch"),
    ],
)
def test_mistakes_of_grammar_are_typers_own(arguments: list[object], words: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr and result.stderr.startswith("Usage: ") and "Traceback" not in result.stderr


def test_an_error_of_the_library_names_the_options_of_its_arguments() -> None:
    result = call("--flour", "wheat", "--loaves", 6)
    assert result.exit_code == 2
    assert result.stderr == "Error: 6 loaves of wheat do not fit (--loaves, --flour)\n"


def test_results_go_to_standard_output_and_everything_else_to_standard_error(tmp_path: Path) -> None:
    result = call("--loaves", 3, "--json", tmp_path / "new" / "result.json")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "done\n", "kneading\nwarning: hot\n")
    content = json.loads((tmp_path / "new" / "result.json").read_text())
    assert content["schema_version"] == 1 and content["loaves"] == 3 and content["nan"] is None
    assert call("--quiet").stderr == "warning: hot\n"
    assert logging.getLogger("export").level == logging.NOTSET


@pytest.mark.parametrize(("arguments", "expected"), [([], "no"), (["--resume"], "auto"), (["--resume", "f"], "f"),
                                                     (["--resume", "--loaves", "1"], "auto")])  # fmt: skip
def test_resume_may_stand_alone(arguments: list[str], expected: str) -> None:
    assert data_of(*arguments)["resume"] == expected


def test_help_says_ranges_choices_and_defaults_once() -> None:
    text = " ".join(call("-h").stdout.split())
    assert "How many. [1 to 9] [default: 1]" in text and "rye|wheat" in text and "--salt / --no-salt" in text
    assert "unseen" not in text


def test_what_cannot_be_written_is_said_before_the_work_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = call("--json", tmp_path / "file" / "x.json")
    assert result.exit_code == 2 and "kneading" not in result.stderr and str(tmp_path / "file") in result.stderr
    check_results(tmp_path / "a" / "b" / "c.json", None, Path("-"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    with pytest.raises(SSDDeployError, match="two results"):
        check_results(tmp_path / "x", tmp_path / "." / "x")


def test_a_result_never_replaces_what_the_command_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").write_text("kept")
    Path("link").symlink_to("model")
    for arguments in (
        ("model", "--json", "./model"),
        ("a", "model", "--json", "link"),
        ("--note", "model", "--json=model"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2 and "is named for a result and for something else" in result.stderr
        assert "kneading" not in result.stderr and Path("model").read_text() == "kept"
    assert call("other", "--json", "model").exit_code == 0


def test_a_library_caller_is_held_to_the_same_ranges() -> None:
    with pytest.raises(BackendError, match="loaves 0: expected 1 to 9") as caught:
        Baking(loaves=0)
    assert caught.value.arguments == ("loaves",)


def test_nothing_is_told_outside_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    call()
    logging.getLogger("export").info("kneading")
    assert capsys.readouterr() == ("", "") and not logging.getLogger("export").handlers and sys.stdout is not None


ODD_NAME = os.fsdecode(b"caf\xe9") + "-ü-\ud800"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.parametrize("arguments", [[], ["--json", "-"]])
def test_whatever_a_name_is_it_can_be_printed_and_read_back(
    monkeypatch: pytest.MonkeyPatch, encoding: str, arguments: list[str]
) -> None:
    def name_it() -> Result:
        """Say a name."""
        logging.getLogger("ssd_train").warning("%s", ODD_NAME)
        return Result(text=ODD_NAME, data={"name": ODD_NAME})

    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=ESCAPE) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    app = typer.Typer()
    add_command(app, name_it)
    app(arguments, standalone_mode=False)
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams.values() if not stream.flush())  # type: ignore[attr-defined]
    if arguments:
        assert json.loads(out)["name"] == ODD_NAME
    else:
        assert json.loads(f'"{out.strip()}"') == ODD_NAME
    assert json.loads(f'"{err.strip()}"') == f"warning: {ODD_NAME}"
