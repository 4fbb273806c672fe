"""What readers mend or leave out, counted and put into sentences."""

import pytest

from ssd_train.datasets.findings import RULES, Effect, Findings
from ssd_train.errors import DatasetError


def test_a_sentence_a_rule_in_the_order_of_the_table_counts_and_names_places() -> None:
    findings = Findings()
    findings.add("clipped", "b.xml")
    findings.add("other-class", "cow")
    findings.add("clipped", "a.xml")
    findings.add("other-class", "cow", 2)
    findings.add("clipped", "b.xml")
    assert findings.sentences() == (
        "left out 3 objects of classes that the detector does not know: cow (3)",
        "clipped 3 objects that reach outside their image: b.xml (2), a.xml",
    )


def test_a_sentence_names_five_places_and_counts_the_rest() -> None:
    findings = Findings()
    for number in range(8):
        findings.add("no-area", f"{number}.xml")
    assert findings.sentences() == (
        "left out 8 objects without width or height: 0.xml, 1.xml, 2.xml, 3.xml, 4.xml, and 3 more",
    )


def test_nothing_found_says_nothing() -> None:
    assert Findings().sentences() == Findings().found() == ()


def test_a_fault_is_raised_with_the_options_that_mend_it() -> None:
    with pytest.raises(DatasetError, match="no such thing") as caught:
        Findings().stop("no such thing", place="a", arguments=("classes",))
    assert caught.value.arguments == ("classes",)


def test_a_complete_collection_lists_faults_first_then_losses_then_notes() -> None:
    findings = Findings(is_complete=True)
    findings.add("clipped", "a.xml")
    findings.add("no-area", "a.xml", 3)
    findings.stop("b.xml is broken", place="b.xml")
    assert [(each.rule, each.effect, each.place, each.count) for each in findings.found()] == [
        ("stop", Effect.STOP, "b.xml", 1),
        ("no-area", Effect.LOSS, "a.xml", 3),
        ("clipped", Effect.NOTE, "a.xml", 1),
    ]
    assert findings.found()[0].message == "b.xml is broken"


def test_a_rule_that_is_not_in_the_table_is_a_mistake() -> None:
    with pytest.raises(DatasetError, match="no-such"):
        Findings().add("no-such", "a")
    assert all(rule.effect is not Effect.STOP for rule in RULES.values())
