"""What a process does to itself at a chosen moment, and what it is spared."""

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


def trace_as(path: str) -> None:
    """Tracing takes longer than all else of an export: it gives the graph of an exported file."""
    import onnx

    from export import onnx as onnx_export
    from ssd_train.spec import RAW_NAMES

    def traced(*arguments: object) -> onnx.ModelProto:
        model = onnx.load(path)
        model.graph.output.extend(value for value in model.graph.value_info if value.name in RAW_NAMES)
        return model

    onnx_export._traced = traced
