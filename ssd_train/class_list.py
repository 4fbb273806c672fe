"""Class lists as text files, a name a line."""

from pathlib import Path

from ssd_train.errors import SpecError
from ssd_train.escaped_text import unescaped
from ssd_train.input_files import decoded, open_input
from ssd_train.spec import check_class_names

# What lists of other projects call column 0 of the logits, which is no class here.
BACKGROUND = "BACKGROUND"


def read_class_list(path: Path) -> tuple[str, ...]:
    """Read a class list; empty lines are left out, and so is a first line `BACKGROUND`, which pytorch-ssd writes.

    Raises:
        SpecError: the file cannot be read as text, has no names, or repeats one.
    """
    try:
        with open_input(path) as file:
            lines = decoded(file, path).splitlines()
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: the class list cannot be read ({error}); give a text file, a name a line") from error
    names = tuple(unescaped(line.strip()) for line in lines if line.strip())
    try:
        return check_class_names(names[1:] if names[:1] == (BACKGROUND,) else names)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
