"""How many operators a piece of PyTorch code starts, and how many bytes they move."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They give memory without touching it.
ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")


@dataclasses.dataclass
class Part:
    """What one part of a program started.

    Attributes:
        operators: calls that would each start at least one kernel on a GPU; views and allocations start none.
        bytes: read and written by them: the sizes of their tensors, each once a call, whatever a cache holds.
        names: operator -> calls.
    """

    operators: int = 0
    bytes: int = 0
    names: Counter[str] = dataclasses.field(default_factory=Counter)


class CountedOperators(TorchDispatchMode):
    """Counts operators below autograd and autocast, backward passes included, by the part that is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Part] = {}
        self._entered = ["other"]

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._entered.append(name)
        try:
            yield
        finally:
            self._entered.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = _tensors((args, kwargs))
        outputs, written = _tensors(result), _written(func, args, kwargs or {})
        # A view, a copy that was not needed, or a question about a tensor that its description answers.
        starts_nothing = not written and _all_share(outputs, inputs)
        if not starts_nothing and func.overloadpacket.__name__ not in ALLOCATIONS:
            part = self.parts.setdefault(self._entered[-1], Part())
            part.operators += 1
            part.names[func.overloadpacket.__name__] += 1
            # What is changed in place is often returned too.
            new = [] if _all_share(outputs, written) else outputs
            part.bytes += sum(_size_bytes(tensor) for tensor in (*inputs, *written, *new))
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the tensors that a call changes."""
    changed: list[Tensor] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            changed += _tensors(args[number] if number < len(args) else kwargs.get(argument.name))
    return changed


def _all_share(some: list[Tensor], others: list[Tensor]) -> bool:
    storages = {tensor.untyped_storage()._cdata for tensor in others}
    return all(tensor.untyped_storage()._cdata in storages for tensor in some)


def _size_bytes(tensor: Tensor) -> int:
    # An expanded tensor is as large as its memory.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
