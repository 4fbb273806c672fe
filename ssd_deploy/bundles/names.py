"""What a served model is called, and its one version."""

import re
from pathlib import Path

from ssd_train.errors import ModelError

VERSION = "1"

# Part of addresses and of file names, and nothing that has to be escaped in either.
_MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def model_name(model: Path) -> str:
    """Return what a file's model is called: the file without its ending.

    Raises:
        ModelError: no address can have such a name.
    """
    if not _MODEL_NAME.fullmatch(model.stem):
        raise ModelError(
            f"{model}: a served model is called as its file, and in an address only letters, digits, dots, - and _ are "
            "plain; rename the file"
        )
    return model.stem
