"""TensorRT's Python modules, behind one name: the functions of this project take either flavour's as `trt`."""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from export.engine.flavours import FLAVOURS
from ssd_train.errors import BackendError

if TYPE_CHECKING:
    import tensorrt as trt

AUTO = "auto"


def load_bindings(flavour: str) -> Any:
    """Import a flavour's Python module; raise BackendError where it is not installed or does not load."""
    module = FLAVOURS.find(flavour).module
    if importlib.util.find_spec(module) is None:
        raise BackendError(f"{flavour} is not installed: pip install 'ssd-deploy[{flavour}]'")
    try:
        return importlib.import_module(module)
    except Exception as error:  # besides ImportError the packages raise OSError, RuntimeError and FileNotFoundError
        raise BackendError(
            f"{flavour} is installed but does not load ({error}); reinstall it: pip install 'ssd-deploy[{flavour}]'"
        ) from error


def choose_flavour(flavour: str) -> str:
    """Return the flavour that is meant, `auto` being the first that loads; raise BackendError where none does."""
    reasons = []
    for name in FLAVOURS if flavour == AUTO else (flavour,):
        try:
            load_bindings(name)
            return name
        except BackendError as error:
            reasons.append(str(error))
    raise BackendError("; ".join(reasons))


class Messages:
    """What TensorRT logged: warnings, and errors in their order."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.errors: list[str] = []

    def last_errors(self) -> str:
        return "; ".join(self.errors[-3:]) or "it gave no reason"


@contextlib.contextmanager
def starting(what: str, messages: Messages) -> Iterator[None]:
    """Surround the creation of a TensorRT object: where CUDA does not start, TensorRT gives none, a TypeError."""
    try:
        yield
    except TypeError as error:
        raise BackendError(f"{what} does not start: {messages.last_errors()}") from error


def make_logger(trt: Any, messages: Messages) -> "trt.ILogger":
    """Return a TensorRT logger that keeps warnings and errors in `messages` and prints nothing."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            # TensorRT's part of the object comes into being here; `super()` does not do it for its classes.
            trt.ILogger.__init__(self)

        def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:
            msg = " ".join(msg.split())
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                messages.errors.append(msg)
            elif severity == trt.ILogger.Severity.WARNING:
                messages.warnings.append(msg)

    return Logger()
