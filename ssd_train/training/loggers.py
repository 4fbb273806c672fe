"""The table of loggers: where a training's numbers go besides `metrics.jsonl`.

A logger is one row and one `open_` function here. Light: what a row needs is imported when it is opened.
"""

import dataclasses
import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ssd_train.errors import OwnPartError, SSDDeployError, first_line
from ssd_train.files import write_json
from ssd_train.json_input import JSONError, read_json, shown
from ssd_train.requirements import require
from ssd_train.table import Table

# Each logger's own name of the run, so that a resumed training goes on in it.
IDS_NAME = "loggers.json"

# What MLflow and Weights & Biases call all trainings together, unless the user's environment says otherwise.
PROJECT = "ssd-deploy"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What a logger is told about a training.

    Attributes:
        folder: the run folder, which exists.
        settings: the configuration as plain values.
        step: steps done; above 0 in a training that goes on.
    """

    folder: Path
    settings: Mapping[str, Any]
    step: int


class RunLogger(Protocol):
    """One open logger. Its methods may raise anything: `Loggers` then goes on without it."""

    @property
    def run_id(self) -> str | None:
        """What to open the same run with again; None where the folder is enough."""

    def log(self, numbers: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logger:
    """One row.

    Attributes:
        name: what the setting `logger` calls it.
        package: what it imports.
        extra: the extra of this project that installs that.
        open: (run, `run_id` of the training that goes on, or None) -> the logger. May raise anything.
    """

    name: str
    package: str
    extra: str
    open: Callable[[LoggedRun, str | None], RunLogger]


# --- TensorBoard ---


class _TensorBoard:
    run_id = None

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # It drops what an earlier process wrote after the checkpoint, this step included.
        self.board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()

    def close(self) -> None:
        self.board.close()


# --- MLflow ---

# What its server refuses in the name of a metric.
_REFUSED = re.compile(r"[^\w\-. :/]")
MAX_PARAM_LENGTH = 6000


class _MLflow:
    def __init__(self, run: LoggedRun, run_id: str | None) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            uri = (run.folder / "mlruns").absolute().as_uri()
            # Its files are frozen in their form, but its databases need packages that mlflow-skinny leaves out.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        # A client of its own, since the module's functions are about one run of the whole process.
        self.client = MlflowClient(tracking_uri=uri)
        if run_id is not None:
            self.client.update_run(run_id, status="RUNNING")
        else:
            run_id = self._new_run(run)
        self.run_id = run_id

    def _new_run(self, run: LoggedRun) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = self.client.create_experiment(name) if experiment is None else experiment.experiment_id
        run_id = self.client.create_run(experiment_id, run_name=run.folder.absolute().name).info.run_id
        params = [Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in run.settings.items()]
        self.client.log_batch(run_id, params=params)
        return str(run_id)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(_REFUSED.sub("_", name), value, now_ms, step) for name, value in numbers.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def close(self) -> None:
        self.client.set_terminated(self.run_id)


# --- Weights & Biases ---


class _WandB:
    def __init__(self, run: LoggedRun, run_id: str | None) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE")
        if not mode:
            mode = "online" if wandb.login(prompt=False) else "offline"
            if mode == "offline":
                _log.info(f"note: no login to wandb, so it writes into {run.folder / 'wandb'}; `wandb sync` sends that")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.absolute().name,
            dir=run.folder,
            id=run_id,
            resume="allow",
            mode=mode,  # type: ignore[arg-type]
            config=dict(run.settings),
            # Not the process's one run, which a caller's code may have open.
            reinit="create_new",
            # Neither the console nor the code of whoever trains.
            settings=wandb.Settings(console="off", disable_git=True, save_code=False, silent=True),
        )
        self.run_id = self.run.id

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        # Steps that a resumed training takes again are refused where they are known: their numbers are the same.
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()


LOGGERS: Table[Logger] = Table(
    "logger",
    (
        Logger(name="tensorboard", package="tensorboard", extra="train", open=lambda run, _: _TensorBoard(run)),
        Logger(name="mlflow", package="mlflow", extra="mlflow", open=_MLflow),
        Logger(name="wandb", package="wandb", extra="wandb", open=_WandB),
    ),
    SSDDeployError,
)

DEFAULT_LOGGER = LOGGERS["tensorboard"]


def find_loggers(asked: str) -> tuple[Logger, ...]:
    """Return the rows that a setting names.

    Args:
        asked: `auto` for TensorBoard where it is installed, `none`, or names with commas between.

    Raises:
        SSDDeployError: there is no such logger.
    """
    if asked == "none":
        return ()
    if asked == "auto":
        return (DEFAULT_LOGGER,) if is_installed(DEFAULT_LOGGER) else ()
    names = dict.fromkeys(name.strip() for name in asked.split(","))
    unknown = [name for name in names if name not in LOGGERS]
    if unknown:
        raise SSDDeployError(
            f"logger {shown(asked)}: expected auto, none, or some of {', '.join(LOGGERS)} with commas between",
            arguments=("logger",),
        )
    return tuple(LOGGERS[name] for name in names)


def is_installed(logger: Logger) -> bool:
    return importlib.util.find_spec(logger.package) is not None


def check_loggers(asked: str) -> None:
    """Raise BackendError where a logger that was asked for by name is not installed."""
    for logger in find_loggers(asked):
        require(logger.package, logger.extra, f"The logger {logger.name}")


def _ids_of(path: Path) -> dict[str, str]:
    """Return each logger's name of the run; those that cannot be read are new runs, which costs no training."""
    try:
        ids: dict[str, str] = read_json(path, dict[str, str])
        return ids
    except JSONError as error:
        _log.warning("%s: %s; loggers begin a new run", path, error)
        return {}


class Loggers:
    """The open loggers of a run. One that fails later is left out with a warning: the training goes on.

    Args:
        asked: as for `find_loggers`.

    Raises:
        OwnPartError: one cannot be opened.
    """

    def __init__(self, asked: str, run: LoggedRun) -> None:
        path = run.folder / IDS_NAME
        ids = _ids_of(path) if run.step and path.is_file() else {}
        self.open: dict[str, RunLogger] = {}
        for logger in find_loggers(asked):
            try:
                self.open[logger.name] = logger.open(run, ids.get(logger.name))
            # Whatever a package, its server or the disk may raise.
            except Exception as error:
                raise OwnPartError(
                    f"the logger {logger.name} cannot be opened ({first_line(error)}); mend that, or leave it out",
                    arguments=("logger",),
                ) from error
        opened = {name: logger.run_id for name, logger in self.open.items() if logger.run_id is not None}
        if opened:
            write_json(path, ids | opened)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Give all of them numbers of a step."""
        self._for_each(lambda logger: logger.log(numbers, step))

    def close(self) -> None:
        self._for_each(lambda logger: logger.close())

    def _for_each(self, action: Callable[[RunLogger], None]) -> None:
        for name, logger in list(self.open.items()):
            try:
                action(logger)
            # A disk, a network, a package: none of them is worth a training.
            except Exception as error:
                del self.open[name]
                _log.warning(
                    "the logger %s failed and gets nothing more (%s); metrics.jsonl has all numbers", name,
                    first_line(error),
                )  # fmt: skip
