"""Nothing that a file, a server or a name says is obeyed by a terminal."""

import json
import logging
import re
import unicodedata

import pytest
import typer
from typer.testing import CliRunner

from ssd_deploy.describe import describe_text
from ssd_deploy.progress import stage_progress
from ssd_deploy.text_table import text_table, wrapped
from ssd_train.command_line import Result, add_command
from ssd_train.errors import SSDDeployError
from ssd_train.printable import joined, one_line, printable

# Clears the screen, sets the window's title, goes up a line, shows itself the other way round, ends a line.
EVIL = "a\x1b[2J\x1b]0;t\x07\r\x9b1A\u202egpj.\u2066\u2028\x85\x7f\ud800b"
SAFE = "a\\u001b[2J\\u001b]0;t\\u0007\\u000d\\u009b1A\\u202egpj.\\u2066\\u2028\\u0085\\u007f\\ud800b"


def test_what_terminals_obey_is_escaped_and_text_of_every_script_stays() -> None:
    assert printable(EVIL) == one_line(EVIL) == SAFE
    text = "café 圆 Крест עגול دائرة नमस्ते 👩\u200d🚒 a\\b 'c' \u00a0…"
    assert printable(text) == one_line(text) == text
    assert printable("a\n\tb") == "a\n\tb" and one_line("a\n\tb") == "a\\u000a\\u0009b"
    assert joined(["a\nb", "c"]) == "a\\u000ab\nc"


def test_no_control_character_of_unicode_is_left() -> None:
    everything = "".join(map(chr, range(0x10000)))
    left = {letter for letter in one_line(everything) if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")}
    assert left == set()
    # Marks of direction; letters that are read from the right to the left are none.
    kinds = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert not {letter for letter in one_line(everything) if unicodedata.bidirectional(letter) in kinds}


def test_json_that_is_printed_stays_the_same_json() -> None:
    value = {"name": EVIL.replace("\ud800", "")}
    assert json.loads(printable(json.dumps(value, ensure_ascii=False))) == value


def say(how: str) -> Result:
    """Say it."""
    if how == "error":
        raise SSDDeployError(f"{EVIL}\nError: nothing")
    if how == "missing":
        open(f"/nowhere/{EVIL[:5]}\nx").close()  # noqa: SIM115
    logger = logging.getLogger("ssd_train")
    logger.warning("%s", f"{EVIL}\nError: a second line")
    logger.info(f"{EVIL}\nError: a third line")
    return Result(text=EVIL, data={"name": EVIL})


@pytest.mark.parametrize("how", ["result", "error", "missing", "--json"])
def test_errors_logs_and_results_are_printed_so(how: str) -> None:
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    add_command(app, say)
    arguments = ["say", "result", "--json", "-"] if how == "--json" else ["say", how]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == (2 if how in ("error", "missing") else 0)
    assert "\\u001b[2J" in result.output and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", result.output)
    lines = result.output.splitlines()
    assert sum(line.startswith("Error:") for line in lines) == (how in ("error", "missing"))
    if how == "--json":
        shown = json.loads("".join(line for line in lines if line.startswith(("{", "}", " "))))
        assert shown["name"] == EVIL


def test_a_cell_a_sentence_and_a_value_are_each_a_part_of_a_line() -> None:
    name = "cat\nError: dog"
    assert len(text_table(["class", "n"], [[name, "1"]]).splitlines()) == 3
    assert wrapped([name], None) == wrapped([name], 80) == ["cat\\u000aError: dog"]
    assert len(describe_text({"class_names": [name], "network": name}).splitlines()) == 2


def test_brackets_in_a_title_are_no_styles(capsys: pytest.CaptureFixture[str]) -> None:
    with stage_progress("[/b] \x1b[2J [red]x") as on_progress:
        on_progress("[/i]", 1, 2)
    shown = capsys.readouterr().err
    assert "[/b]" in shown and "[red]x" in shown and "[/i]" in shown and "\x1b[2J" not in shown
