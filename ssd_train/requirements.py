"""Optional packages: asked for by name, so that one that is missing or broken is a sentence and not a traceback."""

import importlib
import importlib.util

from ssd_train.errors import BackendError, first_line


def require_installed(package: str, extra: str, purpose: str) -> None:
    """Raise BackendError where an optional package is not installed; it is not imported, which may take seconds.

    Args:
        package, extra, purpose: as for `require`.
    """
    if importlib.util.find_spec(package) is None:
        raise BackendError(f"{purpose} needs {package}, which is not installed: pip install 'ssd-deploy[{extra}]'")


def require(package: str, extra: str, purpose: str) -> None:
    """Import an optional package. Raise BackendError where it is not installed, or is and does not load.

    The latter is a library of the system that is missing, another version of what it was built with, or too little
    memory to map it; packages raise all kinds of errors then.

    Args:
        package: its import name.
        extra: the extra of this project that installs it.
        purpose: what needs it, the start of the sentence.
    """
    require_installed(package, extra, purpose)
    try:
        importlib.import_module(package)
    # ImportError, OSError of a shared library, MemoryError, or what the package's own code comes to.
    except Exception as error:
        raise BackendError(
            f"{purpose} needs {package}, which is installed but does not load ({type(error).__name__}: "
            f"{first_line(error)}); mend or reinstall it, or give this process more memory"
        ) from error
