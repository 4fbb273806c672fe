"""What a process does to itself at a chosen moment."""

import functools
import importlib
import os
import signal
from typing import Any


def strike(where: str, call: int, signal_name: str, after: bool = False) -> None:
    """Have the process get a signal in a certain call of a function.

    Args:
        where: the function as `module:name` or `module:Class.name`.
        call: which one, from 0.
        after: once the function has done its work, rather than before.
    """
    module, _, names = where.partition(":")
    *path, name = names.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(module))
    usual, number, count = getattr(owner, name), getattr(signal, signal_name), 0

    def struck(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        is_it, count = count == call, count + 1
        if is_it and not after:
            os.kill(os.getpid(), number)
        result = usual(*arguments, **options)
        if is_it and after:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, struck)


def leave_out_pictures() -> None:
    """Drawing takes longer than the steps of a small training."""
    from ssd_train.training import recorder
    from ssd_train.training.run_folder import MetricsWriter

    MetricsWriter.draw_curves = lambda self: None  # type: ignore[method-assign]
    recorder.write_detections = lambda *arguments: None
