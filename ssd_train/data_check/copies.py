"""Pictures that are in a data set more than once, and what that means for its splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ssd_train.data_check.duplicates import find_duplicates
from ssd_train.data_check.images import ImageFacts
from ssd_train.data_check.reading import Split
from ssd_train.datasets.findings import Findings

# Groups of pictures that are one; of each picture its split's role and its file.
Copies = tuple[tuple[tuple[str, str], ...], ...]


def find_copies(splits: Sequence[Split], facts: Mapping[Path, ImageFacts], findings: Findings) -> Copies:
    """Return the groups, and tell `findings` of each what it spoils.

    A picture that is trained on and held out makes a score too good; one that is there twice in a split only counts
    twice. A file that one split lists twice is left to the reader, which says so.
    """
    entries = [
        (split.role, path) for split in splits for path in dict.fromkeys(sample.path for sample in split.samples)
    ]
    groups = find_duplicates([facts[path] for _, path in entries])
    copies: list[tuple[tuple[str, str], ...]] = []
    for group in groups:
        members = [entries[index] for index in group]
        copies.append(tuple((role, str(path)) for role, path in members))
        by_role = {role: [path for own, path in members if own == role] for role, _ in members}
        held_out = [role for role in by_role if role != "train"]
        if "train" in by_role:
            for role in held_out:
                for path in by_role[role]:
                    findings.add("trained-copy", f"{role} {path.name} is train {by_role['train'][0].name}")
        elif len(held_out) > 1:
            first, second = held_out[:2]
            findings.add("held-out-copy", f"{second} {by_role[second][0].name} is {first} {by_role[first][0].name}")
        for role, paths in by_role.items():
            for path in paths[1:]:
                findings.add("copy", f"{role} {path.name} is {paths[0].name}")
    return tuple(copies)
