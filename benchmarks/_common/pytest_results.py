"""A plugin for pytest (`-p benchmarks._common.pytest_results`): each test's outcome and numbers, as it ends.

$PYTEST_RESULTS names the JSON file. What a test keeps with `record_property` or `record` is in it, so that a run that
is stopped has lost nothing.
"""

import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ssd_train.environment import describe_environment
from ssd_train.files import write_json

RESULTS: dict[str, Any] = {"counts": Counter(), "not_passed": {}, "recorded": {}}


def pytest_sessionstart() -> None:
    RESULTS["environment"] = dataclasses.asdict(describe_environment())
    write_json(Path(os.environ["PYTEST_RESULTS"]), RESULTS)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A test that is skipped or cannot begin has no call.
    if report.when != "call" and report.outcome == "passed":
        return
    RESULTS["counts"][report.outcome] += 1
    if report.outcome != "passed":
        RESULTS["not_passed"][report.nodeid] = _reason(report)
    elif report.user_properties:
        RESULTS["recorded"][report.nodeid] = dict(report.user_properties)
    write_json(Path(os.environ["PYTEST_RESULTS"]), RESULTS)


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return str(report.longrepr).strip().splitlines()[-1]
