"""Names of classes as people spell them."""

import pytest

from ssd_train.datasets.class_names import Spellings, match_classes


def of_files(*files: str) -> Spellings:
    """Each file's classes, with commas between."""
    return Spellings.of_files([[name for name in file.split(",") if name] for file in files])


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        ([], ()),
        (["", "b,a"], ("a", "b")),
        (["zebra,Ant"], ("Ant", "zebra")),
        # One class that several people wrote, as most of them did.
        (["cat", "Cat", "Cat"], ("Cat",)),
        (["cat,cat,cat", "Cat", "Cat"], ("cat",)),
        # Two classes, since one picture has both.
        (["a,A", "b"], ("A", "a", "b")),
        (["a", "A", "a,A"], ("A", "a")),
        (["Straße", "STRASSE"], ("STRASSE",)),
    ],
)
def test_classes_of_files_are_those_that_are_meant(files: list[str], classes: tuple[str, ...]) -> None:
    assert of_files(*files).classes() == classes


@pytest.mark.parametrize(
    ("spellings", "class_names", "labels"),
    [
        (of_files("cat,dog"), ["dog", "cat"], {"cat": 1, "dog": 0}),
        (of_files("Cat,DOG"), ["dog", "cat"], {"Cat": 1, "DOG": 0}),
        (of_files("cat", "Cat", "CAT"), ["cat"], {"cat": 0, "Cat": 0, "CAT": 0}),
        (of_files("cat,cow"), ["cat"], {"cat": 0}),
        (of_files("cat"), [" cat "], {"cat": 0}),
        # Characters: each is its own, and what is neither is nobody's.
        (of_files("A,a"), ["A", "a"], {"A": 0, "a": 1}),
        (of_files("A", "a"), ["a", "A"], {"A": 1, "a": 0}),
        (of_files("A,a"), ["A"], {"A": 0}),
        (of_files("A,a"), ["b"], {}),
        (of_files("cAt"), ["cat", "CAT"], {}),
        (Spellings.declared(["A", "a"]), ["A"], {"A": 0}),
        (Spellings.declared(["a"]), ["A"], {"a": 0}),
        # VOC's and COCO's names.
        (of_files("tvmonitor", "Sofa", "sofa"), ["tv", "couch"], {"tvmonitor": 0, "Sofa": 1, "sofa": 1}),
        (of_files("potted plant"), ["pottedplant"], {"potted plant": 0}),
        (of_files("tv,tvmonitor"), ["tv"], {"tv": 0}),
        (of_files("tv"), ["tv", "tvmonitor"], {"tv": 0}),
    ],
)
def test_names_match_exactly_then_without_case_then_by_their_other_name(
    spellings: Spellings, class_names: list[str], labels: dict[str, int]
) -> None:
    assert match_classes(spellings, class_names).labels == labels


def test_what_matched_otherwise_than_exactly_is_told() -> None:
    match = match_classes(of_files("cat,Dog,aeroplane"), ["cat", "dog", "airplane"])
    assert (match.folded, match.aliases) == (("Dog",), ("aeroplane",))
