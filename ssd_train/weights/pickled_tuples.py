"""How many values the tuples of a pickle hold, before any is made.

A pickle of a few hundred bytes can nest a tuple in itself sixty times, twice each time. Where that is a key of a dict,
Python hashes it value by value, which nobody lives to see and no signal ends.
"""

import pickletools
from typing import Any

# Operations that give what is made of their values, which may be a tuple again, such as a shape; and those that
# put values into a list or dict, which is not hashed.
_CALLS = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD")
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS")


class TupleSizes:
    """Follows a pickle's stack, where a value is as large as the values that its hash is made of."""

    def __init__(self) -> None:
        self._stack: list[int | None] = []  # None for a mark
        self._memo: dict[Any, int] = {}

    def after(self, operation: pickletools.OpcodeInfo, argument: Any) -> int:
        """Take a step of the pickle, and return the size of what it leaves on top."""
        name = operation.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo.get(argument, 1))
        elif name == "MARK":
            self._stack.append(None)
        elif name == "DUP":
            self._stack.append(self._top())
        else:
            taken = self._taken(operation)
            first = (taken[:1] or [1])[0]
            is_made = name.startswith("TUPLE") or name in _CALLS
            made = 1 + sum(taken) if is_made else first if name in _FILLS else 1
            self._stack += [made] * len(operation.stack_after)
        return self._top()

    def _top(self) -> int:
        return (self._stack[-1] or 1) if self._stack else 1

    def _taken(self, operation: pickletools.OpcodeInfo) -> list[int]:
        """Take what an operation uses, in order: all above a mark and what is below that, or so many."""
        before = operation.stack_before
        taken: list[int] = []
        if pickletools.markobject in before:
            while self._stack and (value := self._stack.pop()) is not None:
                taken.append(value)
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            taken.append((self._stack.pop() or 1) if self._stack else 1)
        return taken[::-1]
