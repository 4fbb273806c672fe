"""What is odd or wrong in a data set, as data: the table of rules, and the collector that every reader tells.

A reader stops at the first fault that it cannot mend, and says in a sentence what it mended or left out. `ssd-deploy
check` reads the same way, but goes on after faults, to list them all.
"""

import dataclasses
import enum
from collections.abc import Collection, Sequence

from ssd_train.errors import DatasetError
from ssd_train.table import Table

# Files or annotations that a sentence names.
MAX_NAMED = 5


class Effect(enum.StrEnum):
    """What becomes of what a rule finds."""

    NOTE = "note"  # nothing is lost
    LOSS = "loss"  # objects or images are left out
    STOP = "stop"  # neither training nor evaluation begins


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """One row.

    Attributes:
        name: what `check --json` calls it.
        effect: NOTE or LOSS.
        sentence: what was done, with a place for the number of times where that matters.
    """

    name: str
    effect: Effect
    sentence: str


RULES: Table[Rule] = Table(
    "rule",
    (
        Rule(
            name="other-class",
            effect=Effect.LOSS,
            sentence="left out {} objects of classes that the detector does not know",
        ),
        Rule(name="no-area", effect=Effect.LOSS, sentence="left out {} objects without width or height"),
        Rule(name="outside", effect=Effect.LOSS, sentence="left out {} objects that lie wholly outside their image"),
        Rule(
            name="unknown-category",
            effect=Effect.LOSS,
            sentence="left out {} objects of categories that are not listed",
        ),
        Rule(name="no-class", effect=Effect.LOSS, sentence="left out {} objects with a negative class number"),
        Rule(
            name="scaled",
            effect=Effect.LOSS,
            sentence="kept {} objects whose coordinates look like shares of the image",
        ),
        Rule(name="clipped", effect=Effect.NOTE, sentence="clipped {} objects that reach outside their image"),
        Rule(
            name="size-from-image",
            effect=Effect.NOTE,
            sentence="took the size of {} images from their files, since the annotation has none",
        ),
        Rule(
            name="orphan",
            effect=Effect.NOTE,
            sentence="left out {} annotations of images that the annotation file does not list",
        ),
        Rule(name="class-without-objects", effect=Effect.NOTE, sentence="no objects of these classes"),
        Rule(name="class-missing", effect=Effect.NOTE, sentence="the data lack these classes of the detector"),
        Rule(
            name="category-repeated",
            effect=Effect.NOTE,
            sentence="left out {} categories without objects that repeat a name",
        ),
        Rule(
            name="class-spelling",
            effect=Effect.NOTE,
            sentence="took names that differ in upper and lower case for one class",
        ),
        Rule(
            name="class-alias",
            effect=Effect.NOTE,
            sentence="took names of VOC for those of COCO, or the other way round",
        ),
        Rule(
            name="difficult-word",
            effect=Effect.NOTE,
            sentence="took {} objects for not difficult, whose flag is neither yes nor no",
        ),
        Rule(
            name="no-annotation",
            effect=Effect.NOTE,
            sentence="took {} images without annotation file for images without objects",
        ),
        Rule(name="repeated-line", effect=Effect.NOTE, sentence="left out {} lines that repeat another one"),
        Rule(
            name="image-missing",
            effect=Effect.LOSS,
            sentence="left out {} annotations whose image is not there",
        ),
        Rule(
            name="image-without-annotation",
            effect=Effect.NOTE,
            sentence="left out {} images without annotation",
        ),
        Rule(name="listed-twice", effect=Effect.NOTE, sentence="took {} images as often as the list names them"),
        # What no reader sees, since it takes all splits, the pixels or a network.
        Rule(
            name="trained-copy",
            effect=Effect.LOSS,
            sentence="{} held-out pictures are in the training split too, so that a score is too good",
        ),
        Rule(
            name="class-untrained",
            effect=Effect.LOSS,
            sentence="classes that are not learnt, since the training split has no object of them",
        ),
        Rule(
            name="training-bounds",
            effect=Effect.LOSS,
            sentence="training leaves out {} objects of which less than a pixel is in the image",
        ),
        Rule(
            name="nothing-to-score",
            effect=Effect.LOSS,
            sentence="none of {} validation images has an object that counts: a training has no score",
        ),
        Rule(name="copy", effect=Effect.NOTE, sentence="{} pictures repeat another one of their split"),
        Rule(name="held-out-copy", effect=Effect.NOTE, sentence="{} pictures are in two held-out splits"),
        Rule(
            name="class-unscored",
            effect=Effect.NOTE,
            sentence="classes that are not scored, since the validation split has no object of them",
        ),
        Rule(name="without-objects", effect=Effect.NOTE, sentence="training leaves out {} images that have no objects"),
    ),
    DatasetError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of thing at one place.

    Attributes:
        rule: name of a row of `RULES`, `stop` for what cannot be mended, or `anchors`.
        effect: what becomes of it.
        place: the file, the annotation or the class.
        count: how often there.
        message: one sentence that says what is done, or for STOP what is wrong, expected and to do.
    """

    rule: str
    effect: Effect
    place: str
    count: int
    message: str


class Findings:
    """What a reader found.

    Args:
        is_complete: go on after a fault that cannot be mended, and list it; otherwise the first one is raised.
    """

    def __init__(self, *, is_complete: bool = False) -> None:
        self.is_complete = is_complete
        self._counts: dict[str, dict[str, int]] = {}
        self._stops: list[Finding] = []

    def add(self, rule: str, place: str, count: int = 1) -> None:
        """Count what is mended or left out at a place."""
        places = self._counts.setdefault(RULES.find(rule).name, {})
        places[place] = places.get(place, 0) + count

    def stop(self, message: str, *, place: str, arguments: Sequence[str] = ()) -> None:
        """Raise DatasetError, or list the fault where all are wanted; the caller then leaves out what is wrong."""
        if not self.is_complete:
            raise DatasetError(message, arguments=tuple(arguments))
        self._stops.append(Finding(rule="stop", effect=Effect.STOP, place=place, count=1, message=message))

    def sentences(self, *, without: Collection[str] = ()) -> tuple[str, ...]:
        """Return what was mended and left out, a sentence a rule, in the order of the table, without some rules."""
        rules = (rule for rule in RULES.values() if rule.name in self._counts and rule.name not in without)
        return tuple(_sentence(rule, self._counts[rule.name]) for rule in rules)

    def found(self) -> tuple[Finding, ...]:
        """Return everything, the worst first, place by place."""
        findings = list(self._stops)
        for rule in sorted(RULES.values(), key=lambda rule: rule.effect is not Effect.LOSS):
            for place, count in self._counts.get(rule.name, {}).items():
                message = rule.sentence.format(count)
                findings.append(Finding(rule=rule.name, effect=rule.effect, place=place, count=count, message=message))
        return tuple(findings)


def _sentence(rule: Rule, places: dict[str, int]) -> str:
    named = [place if count == 1 else f"{place} ({count})" for place, count in list(places.items())[:MAX_NAMED]]
    more = [f"and {len(places) - MAX_NAMED} more"] if len(places) > MAX_NAMED else []
    return f"{rule.sentence.format(sum(places.values()))}: {', '.join(named + more)}"
