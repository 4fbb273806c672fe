"""The text entries of a model or weight file, each read as what it should be. No torch, no onnx."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ssd_train.errors import ModelError, SSDDeployError
from ssd_train.json_input import JSONError, convert, parse_json, quoted


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEntries:
    """What a file says of itself. Every fault is one sentence that names the file and the entry.

    Attributes:
        entries: as they stand in the file.
        source: what to call the file.
        mend: what to do about a fault, a clause.
        error: what to raise.
    """

    entries: Mapping[str, str]
    source: str
    mend: str = "export the model again with `ssd-deploy export`"
    error: type[SSDDeployError] = ModelError

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def text(self, key: str) -> str:
        """Return a text entry, or raise `error`."""
        if key not in self.entries:
            raise self.error(f"{self.source}: its metadata has no entry {key!r}; {self.mend}")
        value = self.entries[key]
        if not isinstance(value, str):
            raise self.unusable(f"{key} is {quoted(value)}, expected text")
        return value

    def value(self, key: str, kind: Any) -> Any:
        """Return an entry of JSON as a type that msgspec converts to, or raise `error`."""
        return self._read(key, lambda text: parse_json(text, kind))

    def choice(self, key: str, kind: Any) -> Any:
        """Return a text entry as a member of an enumeration, or raise `error`."""
        return self._read(key, lambda text: convert(text, kind))

    def unusable(self, what: str) -> SSDDeployError:
        """Return what to raise about a fault, which is a clause."""
        return self.error(f"{self.source}: its metadata cannot be used ({what}); {self.mend}")

    def _read(self, key: str, read: Any) -> Any:
        text = self.text(key)
        try:
            return read(text)
        except JSONError as error:
            raise self.unusable(f"{key} is {quoted(text)}: {error}") from error
