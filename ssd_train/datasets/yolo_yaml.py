"""`data.yaml` of a YOLO folder: which keys and values there are, and those that are names or places."""

import datetime
import functools
import re
from pathlib import Path
from typing import Any

import yaml

from ssd_train.errors import DatasetError
from ssd_train.input_files import read_text
from ssd_train.json_input import quoted, shown
from ssd_train.spec import name_fault

# Of a class.
_NUMBER = re.compile("[0-9]{1,9}")

# Of YAML, which is read slowly; ten thousands of names have one.
MOST_YAML_BYTES = 2**21
MOST_LEVELS = 20


class _Loader(yaml.SafeLoader):
    """YAML without truth values: classes may be called yes, no, on or off.

    And without merged keys, of which a few lines can make any number of values, or lists that are deep, which it would
    take a long time for.
    """

    levels = 0
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rows if not tag.endswith((":bool", ":merge"))]
        for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave keys as they are, those with the tag of a merge too."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level >= MOST_LEVELS:
            raise yaml.YAMLError(f"nested deeper than {MOST_LEVELS} levels")
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.levels += 1
        if self.levels > MOST_LEVELS:
            raise yaml.YAMLError(f"nested deeper than {MOST_LEVELS} levels")
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file, which are not to be changed. Raises DatasetError."""
    try:
        status = path.stat()
        if status.st_size > MOST_YAML_BYTES:
            raise ValueError(f"more than {MOST_YAML_BYTES} bytes")
        content = _loaded(path, status.st_mtime_ns, status.st_size)
    except Exception as error:  # for tags that do not fit their values the loader raises whatever they lead to
        reason = shown(" ".join(str(error).split()) or type(error).__name__, 300)
        raise DatasetError(f"{path}: cannot be read as YAML ({reason}); mend it") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds no keys and values; expected names, train and val")
    return content


@functools.lru_cache(maxsize=2)  # a folder is recognised, then its splits and names are looked up, then it is read
def _loaded(path: Path, mtime_ns: int, size_bytes: int) -> Any:
    return yaml.load(read_text(path), _Loader)


def read_names(names: Any, path: Path) -> dict[int, str]:
    """Return class number -> name of a list, or of numbers and names. Raises DatasetError."""
    pairs = (
        list(names.items()) if isinstance(names, dict) else list(enumerate(names if isinstance(names, list) else []))
    )
    read: dict[int, str] = {}
    for number, name in pairs:
        text = str(name).strip() if isinstance(name, str | int | float | datetime.date) else ""
        if not (isinstance(number, int | str) and _NUMBER.fullmatch(str(number))) or not text:
            raise DatasetError(
                f"{path}: names has {quoted(number)}: {quoted(name)}, expected a number from 0 and a name; mend it"
            )
        if fault := name_fault(text):
            raise DatasetError(f"{path}: names has {fault}; mend it")
        read[int(number)] = text
    if not read or len(set(read.values())) < len(read):
        raise DatasetError(f"{path}: names is {quoted(names)}, expected different names, one a class; mend it")
    return dict(sorted(read.items()))


def read_places(value: Any, key: str, path: Path) -> tuple[str, ...]:
    """Return the folders and lists of images that a split has, as written. Raises DatasetError."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) and each.strip() for each in values):
        raise DatasetError(
            f"{path}: {key} is {quoted(value)}, expected a folder or list of images, or several; mend it"
        )
    return tuple(each.strip() for each in values)
