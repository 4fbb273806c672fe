"""What users of the stand-in derive from, and what is logged where there is no card."""

import enum

from tensorrt import driver


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        # TensorRT's own part of a logger comes into being here alone.
        self._is_made = True

    def log(self, severity: "ILogger.Severity", msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        self._is_made = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


def checked_logger(logger: ILogger) -> ILogger:
    """Return a logger; raise TypeError for what is none, or never went through `ILogger.__init__`, as pybind11 does."""
    if not getattr(logger, "_is_made", False):
        raise TypeError("ILogger.__init__() must be called when overriding __init__")
    return logger


def need_card(logger: ILogger) -> None:
    """Log and raise TypeError where CUDA does not start: that is how a null pointer of TensorRT's arrives."""
    if driver.card() is None:
        logger.log(ILogger.Severity.ERROR, "stand-in: CUDA initialization failure")
        raise TypeError("factory function returned nullptr")
