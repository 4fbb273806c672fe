"""Names of classes as people spell them -> a detector's labels."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

# Pascal VOC's names of six classes that COCO calls otherwise: a detector of the one runs on images of the other.
COCO_NAME_OF_VOC = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
_OTHER_NAME = COCO_NAME_OF_VOC | {coco: voc for voc, coco in COCO_NAME_OF_VOC.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spellings:
    """How a data set writes its classes.

    Attributes:
        counts: spelling -> objects of it.
        distinct: spellings, in lower case, whose forms are classes of their own, as `A` and `a` are where characters
            are detected.
    """

    counts: Mapping[str, int]
    distinct: frozenset[str]

    @classmethod
    def of_files(cls, files: Iterable[Iterable[str]]) -> "Spellings":
        """Read the classes of each file's objects.

        Names that differ in case alone are distinct where one file has both: whoever draws two boxes in a picture
        and calls them differently means it. Otherwise they are one class, which several people or tools wrote.
        """
        counts: Counter[str] = Counter()
        distinct = set()
        for names in files:
            own = Counter(names)
            counts.update(own)
            forms = Counter(map(str.casefold, own))
            distinct |= {form for form, number in forms.items() if number > 1}
        return cls(counts=counts, distinct=frozenset(distinct))

    @classmethod
    def declared(cls, names: Iterable[str]) -> "Spellings":
        """Take names that a data set declares, each a class of its own."""
        forms = Counter(name.casefold() for name in names)
        return cls(
            counts=dict.fromkeys(names, 0), distinct=frozenset(form for form, number in forms.items() if number > 1)
        )

    def classes(self) -> tuple[str, ...]:
        """Return the classes by alphabet, each as it is spelled most often."""
        best: dict[str, str] = {}
        for name in sorted(self.counts, key=lambda name: (-self.counts[name], name)):
            form = name.casefold()
            best.setdefault(name if form in self.distinct else form, name)
        return tuple(sorted(best.values(), key=lambda name: (name.casefold(), name)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """Which of a detector's classes each of a data set's is.

    Attributes:
        labels: spelling of the data set -> label; classes that the detector does not know are not in it.
        folded: spellings that match in lower case only.
        aliases: spellings that match by VOC's or COCO's other name.
    """

    labels: Mapping[str, int]
    folded: tuple[str, ...]
    aliases: tuple[str, ...]


def match_classes(spellings: Spellings, class_names: Sequence[str]) -> ClassMatch:
    """Match names exactly first, then without case where that leaves no doubt, then by VOC's and COCO's other name."""
    label_of = {name.strip(): label for label, name in enumerate(class_names)}
    forms = Counter(name.casefold() for name in label_of)
    label_of_form = {
        name.casefold(): label
        for name, label in label_of.items()
        if forms[name.casefold()] == 1 and name.casefold() not in spellings.distinct
    }
    labels: dict[str, int] = {}
    folded, aliases = [], []
    for name in spellings.counts:
        if name in label_of:
            labels[name] = label_of[name]
        elif name.casefold() in label_of_form:
            labels[name] = label_of_form[name.casefold()]
            folded.append(name)
    taken = set(labels.values())
    for name in spellings.counts:
        label = label_of_form.get(_OTHER_NAME.get(name.casefold(), ""))
        if name not in labels and label is not None and label not in taken:
            labels[name] = label
            aliases.append(name)
    return ClassMatch(labels=labels, folded=tuple(folded), aliases=tuple(aliases))
