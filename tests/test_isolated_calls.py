"""A measurement that crashes, raises or never ends costs itself alone (benchmarks/_common/isolated.py)."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _common.isolated import CallFailedError, IsolatedCalls  # noqa: E402


def process_id() -> int:
    return os.getpid()


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> None:
    raise ValueError("no plan\nand much more")


@pytest.mark.slow
def test_calls_share_a_process_until_one_of_them_fails():
    with IsolatedCalls() as isolated:
        first = isolated.call(process_id, limit_s=60)
        assert isolated.call(process_id, limit_s=60) == first != os.getpid()
        with pytest.raises(CallFailedError, match="^its process ended with code -11$"):
            isolated.call(crash, limit_s=60)
        second = isolated.call(process_id, limit_s=60)
        with pytest.raises(CallFailedError, match="^ValueError: no plan$"):
            isolated.call(fail, limit_s=60)
        third = isolated.call(process_id, limit_s=60)
        with pytest.raises(CallFailedError, match="^took longer than 0 s and was stopped$"):
            isolated.call(time.sleep, 600, limit_s=0.01)
        assert len({first, second, third, isolated.call(process_id, limit_s=60)}) == 4
