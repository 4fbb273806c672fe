"""Every command that the documentation of version 0.1 showed is still understood.

`old_readme_commands.txt` keeps them, options spelled as they were then; lines are only ever added.
"""

import shlex
from pathlib import Path

import pytest
import typer.main

from ssd_deploy.cli import app

COMMANDS = (Path(__file__).parent / "old_readme_commands.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_still_parses(line):
    _, name, *arguments = shlex.split(line)
    typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_every_command_of_version_0_1_is_in_the_list():
    shown = {shlex.split(line)[1] for line in COMMANDS}
    then = "models doctor fetch convert export detect eval parity benchmark shapes train"
    assert shown == set(then.split())
