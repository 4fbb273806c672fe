"""The harness finds readers that are broken, each in its way, and passes one that is sound."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import broken_kinds
import mutations
import pytest
from cases import Case, make_cases, make_input, table_of
from run_fuzz import run

FOUND = {
    "lets_an_error_through": "KeyError",
    "crashes": "Crash11",
    "hangs": "Hang",
    "takes_all_memory": "MemoryError",
    "leaves_a_file": "FilesLeft",
    "says_too_much": "LongSentence",
}


def test_every_broken_reader_is_found_and_a_sound_one_is_not() -> None:
    names = ("sound", *FOUND)
    report, inputs = run("broken_kinds", count=len(names), seed=1, only=names, longest_s=0.5, most_tries=3)
    assert {kind: what for kind, what, _ in report.failures} == FOUND
    assert (report.counts["sound"].refused, report.counts["sound"].failed) == (1, 0)
    assert all(report.counts[name].failed == 1 for name in FOUND), report.lines()
    assert report.lines()[-1] == "| all | 7 | 0 | 1 | 6 |"
    # What is kept is smaller than what was found, and fails all the same.
    ((small, case),) = ((inputs[key], each.case) for key, each in report.failures.items() if key[0] == "crashes")
    assert len(small) < len(broken_kinds.SEEDS[0].files["a.txt"]) and len(case.steps) == 1


def test_a_seed_makes_the_same_inputs_again_and_more_of_them_begin_alike() -> None:
    few, many = (list(make_cases("sound", count, 1, 7)) for count in (5, 9))
    assert many[:5] == few and len(set(many)) == 9
    assert list(make_cases("sound", 5, 1, 8)) != few
    kind = table_of("broken_kinds")["sound"]
    inputs = [make_input(case, kind, broken_kinds.SEEDS) for case in many]
    assert inputs == [make_input(case, kind, broken_kinds.SEEDS) for case in many]
    assert len(set(inputs)) == 9


def test_a_change_that_does_not_fit_an_input_leaves_it_to_the_others() -> None:
    kind = table_of("broken_kinds")["in_json"]
    seeds = kind.seeds(Path())
    made = [make_input(Case(kind=kind.name, seed=0, steps=(step, step + 1)), kind, seeds) for step in range(200)]
    assert len(set(made)) > 150


@pytest.mark.parametrize("change", mutations.BYTES)
def test_every_change_of_bytes_takes_an_empty_file(change: mutations.Change) -> None:
    assert len(change(b"", Random(0))) < 1000


def changes_of(tree: object, count: int) -> Sequence[str]:
    return [mutations.to_json(mutations.change_tree(tree, Random(number))) for number in range(count)]


def test_trees_get_what_no_encoder_writes() -> None:
    tree = {"a": [1, {"b": "text"}], "c": 0.5}
    changed = "\n".join(changes_of(tree, 400))
    for odd in ("[" * 100_000, "1e999", "9" * 400, '"\\ud800"', "../../etc/passwd", '"\\u0000"'):
        assert odd in changed
    assert '"c": 0.5, "c"' in changed or '"a": [1, {"b": "text"}], "c": 0.5, "a"' in changed, "no key is there twice"
    assert tree == {"a": [1, {"b": "text"}], "c": 0.5}
