"""Optional packages: asked for by name, so that a missing one is a sentence and not a traceback."""

import importlib.util

from ssd_train.errors import BackendError


def require(package: str, extra: str, purpose: str) -> None:
    """Raise BackendError where an optional package is not installed.

    Args:
        package: its import name.
        extra: the extra of this project that installs it.
        purpose: what needs it, the start of the sentence.
    """
    if importlib.util.find_spec(package) is None:
        raise BackendError(f"{purpose} needs {package}, which is not installed: pip install 'ssd-deploy[{extra}]'")
