"""ONNX Runtime's sessions as this project opens them: quiet, and where they were asked to run. No onnx, no torch."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from export.exported import Exported, read_exported
from export.file_metadata import CPU_GRAPH_KEY
from ssd_train.captured_stdout import captured_stdout
from ssd_train.cpus import default_threads
from ssd_train.errors import BackendError, ModelError, first_line

CPU_PROVIDER = "CPUExecutionProvider"

# ONNX Runtime's log level for fatal errors alone: whatever it warns of is raised here, in one sentence. Set
# for the whole process when a session opens, since providers log before they know the session's own level.
FATAL_ONLY = 4


def quiet_options(*, threads: int = 0, spinning: bool = True, plans_memory: bool = False) -> onnxruntime.SessionOptions:
    """Return options that let ONNX Runtime print fatal errors alone.

    Args:
        threads: CPU threads of one operator; 0 for `cpus.default_threads`.
        spinning: threads that wait look for work without rest: faster alone, slower where others need the cores.
        plans_memory: plan where all activations lie, for each batch size: on the CPU 12 % more memory, no time saved.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads or default_threads()
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = plans_memory
    return options


def open_session(
    model: Path | bytes,
    name: str,
    options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[Any] = (CPU_PROVIDER,),
) -> onnxruntime.InferenceSession:
    """Open a session and make sure that it runs where it was asked to.

    Args:
        model: a file, or what is in one.
        name: what errors call it.
        options: None for `quiet_options()`.
        providers: as ONNX Runtime takes them; the first is the one that is asked for.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
        BackendError: the provider fell away, so that everything would silently run elsewhere.
    """
    onnxruntime.set_default_logger_severity(FATAL_ONLY)
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    # ONNX Runtime prints about libraries of a GPU that it misses; that belongs into the error, not on the screen.
    printed = contextlib.nullcontext(io.StringIO()) if wanted == CPU_PROVIDER else captured_stdout()
    try:
        with printed as text:
            if wanted != CPU_PROVIDER:
                # Brings in CUDA and cuDNN from their Python packages where the system has none.
                onnxruntime.preload_dlls()
            # On the CPU there is nothing to fall back to but itself, with a print.
            fallback = {"enable_fallback": 0} if wanted == CPU_PROVIDER else {}
            session = onnxruntime.InferenceSession(
                _name_or_content(model), options or quiet_options(), providers=list(providers), **fallback
            )
    except Exception as error:  # ONNX Runtime's exceptions share no narrower base
        if wanted != CPU_PROVIDER:
            raise BackendError(f"{name}: {wanted} cannot run it ({first_line(error)})") from error
        raise ModelError(
            f"{name}: is not a usable ONNX file{_why_elsewhere(model)} ({first_line(error)}); "
            "make one with `ssd-deploy export`"
        ) from error
    used = session.get_providers()
    if wanted not in used:
        reason = first_line(text.getvalue()) or "its libraries or the driver are missing"
        raise BackendError(
            f"{wanted} was asked for, but the session fell back to {', '.join(used)} ({reason}); "
            "install what is missing, or choose the device cpu",
            arguments=("device",),
        )
    # Without this a provider that fails in a later call is replaced by the CPU with no more than a print.
    session.disable_fallback()
    return session


def _name_or_content(model: Path | bytes) -> str | bytes:
    """Return what ONNX Runtime opens: of a file whose name is not UTF-8, which it cannot be told, the content."""
    if isinstance(model, bytes):
        return model
    try:
        str(model).encode()
    except UnicodeEncodeError:
        return model.read_bytes()
    return str(model)


def describe_exported(path: Path) -> Exported:
    """Return what an ONNX file says of itself, or raise ModelError; it is opened, but not prepared to run."""
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file; make one with `ssd-deploy export`")
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    open_session(path, str(path), options)
    return read_exported(path, str(path))


def _why_elsewhere(model: Path | bytes) -> str:
    """Say that a file that does not load was rewritten for a CPU: another one, as it seems."""
    try:
        data = model if isinstance(model, bytes) else model.read_bytes()
    except OSError:
        return ""
    return ", as it was rewritten for another CPU" if CPU_GRAPH_KEY.encode() in data else ""
