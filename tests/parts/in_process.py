"""The command line in this process, and the job of a worker in it."""

import functools
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from ssd_deploy.backends import RunOptions
from ssd_deploy.cli import app
from ssd_deploy.detect_options import Thresholds
from ssd_deploy.model_source import find_model, open_runner


def run(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def job_for(model: Path, folder: Path, *formats: str) -> Any:
    from ssd_deploy.parts.worker import Job

    return Job(
        folder=folder,
        open_runner=functools.partial(open_runner, find_model(model), RunOptions(threads=1)),
        formats=formats or ("parquet",),
        thresholds=Thresholds(),
        batch_size=8,
        workers=2,
        threads=1,
        max_pixels=10**8,
    )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
