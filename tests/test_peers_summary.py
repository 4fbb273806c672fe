"""What benchmarks/peers.py makes of its measurements: medians, goals, a table; a way that fails costs itself alone."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _common.peer_ways import summary  # noqa: E402
from _common.peers_tables import markdown  # noqa: E402
from _common.turns import take_turns  # noqa: E402


def row(network, **ratios):
    times = {name.replace("_", " "): ratio for name, ratio in ratios.items()} | {"GluonCV": 1.0}
    milliseconds = {label: 100 / ratio for label, ratio in times.items()}
    peaks = {"GluonCV": 500.0, "fp32": 300.0}
    return {"network": network, "times_gluoncv": times, "ms": milliseconds, "over_the_network": 0.01, "peak_mb": peaks}


ROWS = [
    row("a", ONNX_Runtime_fp32=1.2, OpenVINO_fp32=1.5, OpenVINO_bf16=2.5, ONNX_Runtime_int8=4.0),
    row("b", ONNX_Runtime_fp32=2.0, OpenVINO_fp32=1.9, ONNX_Runtime_int8=5.0, OpenVINO_int8=6.0),
    row("c", ONNX_Runtime_fp32=3.0, OpenVINO_fp32=1.0, OpenVINO_bf16=2.8),
]


def test_a_goal_is_held_against_the_median_of_each_networks_fastest_way():
    goals = summary(ROWS)["goals"]
    medians = {name: goal["median_times_gluoncv"] for name, goal in goals.items()}
    # By hand: 1.5, 2, 3; then 2.5, 2, 3; then 4 and 6, of the two networks that have int8.
    assert medians == {"float32 best": 2.0, "no calibration best": 2.5, "int8 best": 5.0}
    assert [goal["is_met"] for goal in goals.values()] == [True, False, True]
    assert goals["int8 best"]["networks"] == 2
    assert goals["float32 best"]["ways"] == {"a": "OpenVINO fp32", "b": "ONNX Runtime fp32", "c": "ONNX Runtime fp32"}


def test_a_way_counts_where_it_was_measured():
    ways = summary(ROWS)["ways"]
    assert ways["OpenVINO bf16"] == {"median_times_gluoncv": 2.65, "networks": 2}
    assert "OpenVINO fp16" not in ways


def test_the_table_has_a_column_for_each_way_that_was_measured_and_marks_the_fastest():
    header, _, first, *_ = markdown(ROWS).splitlines()
    assert "OpenVINO bf16" in header and "OpenVINO fp16" not in header
    assert "| 67 (**1.50**) |" in first and "| 83 (1.20) |" in first and "| 500 / 300 |" in first


def test_a_variant_that_fails_leaves_the_turns_and_the_others_go_on():
    def broken():
        raise ValueError("no memory")

    failed = {}
    assert take_turns({"good": lambda: 1.0, "bad": broken}, 3, failed) == {"good": [1.0, 1.0, 1.0]}
    assert failed == {"bad": "no memory"}
    with pytest.raises(ValueError, match="no memory"):
        take_turns({"bad": broken}, 3)
