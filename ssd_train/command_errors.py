"""A user's mistake on the command line is one sentence and exit code 2; our own mistakes keep their traceback."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from typer.core import TyperGroup

from ssd_train.errors import OwnPartError, SSDDeployError

USER_ERROR = 2


@contextlib.contextmanager
def user_errors(*, is_first: bool = True) -> Iterator[None]:
    """Within the block, turn errors that a user can mend into a line on standard error and an exit.

    Args:
        is_first: of several processes of one command the first on each machine says what is wrong in all of them.
    """
    is_said = is_first
    try:
        yield
    except SSDDeployError as error:
        sentence = str(error)
        is_said |= isinstance(error, OwnPartError)
    except OSError as error:
        # What the system refuses about a file that was named: no permission, a name too long, a full disk.
        if error.filename is None:
            raise
        sentence = f"{error.filename}: {error.strerror}; check the path"
    else:
        return
    if is_said:
        print(f"Error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)


class Commands(TyperGroup):
    """A group of commands with `user_errors` around each."""

    def invoke(self, ctx: Any) -> Any:
        with user_errors():
            return super().invoke(ctx)
