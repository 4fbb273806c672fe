"""What the scripts of this folder share: variants take turns, and a result says what it was measured on."""

import dataclasses
import importlib.metadata
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ssd_deploy.benchmark.measure import wait_until_idle
from ssd_train.environment import describe_environment
from ssd_train.errors import first_line

Turn = TypeVar("Turn")


def take_turns(
    variants: Mapping[str, Callable[[], Turn]], rounds: int, failed: dict[str, str] | None = None
) -> dict[str, list[Turn]]:
    """Call every variant once a round, in an order that moves on by one, so that a drift of the machine meets all.

    A round before the first one warms up; its results are dropped. With `failed` a variant that raises leaves the
    turns, and its reason is put there; without it the exception goes on.
    """
    results: dict[str, list[Turn]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(-1, rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            if name not in results:
                continue
            try:
                result = variants[name]()
            except (Exception, SystemExit) as error:  # of any library, or of a peer's process that has ended
                if failed is None:
                    raise
                failed[name] = first_line(error)
                del results[name]
                continue
            if number >= 0:
                results[name].append(result)
    return results


def rested_ms(call: Callable[[], object], calls: int = 3) -> float:
    """Return the median milliseconds of some calls, after one that is not timed.

    Threads of the variant before are waited for: they would go on looking for work beside the first of these.
    """
    wait_until_idle()
    times = []
    for _ in range(1 + calls):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[1:])


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median over rounds of what one variant's number is of another's in the same round."""
    return statistics.median(one / other for one, other in zip(numerators, denominators, strict=True))


def recorded_environment() -> dict[str, Any]:
    """Return the machine, versions and command of a measurement, and how busy the machine was when it began."""
    described = dataclasses.asdict(describe_environment())
    described["packages"]["torchvision"] = importlib.metadata.version("torchvision")
    return described | {"command": sys.argv, "load_average": os.getloadavg()[0]}


def test_data() -> Path:
    """Return the folder of the images that checks are made on: `$SSD_TEST_DATA`, or `shared/data` beside this tree."""
    return Path(os.environ.get("SSD_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
