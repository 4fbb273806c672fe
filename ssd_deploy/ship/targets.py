"""The table of targets: what `--targets` may name, and which files each makes.

Every file is made of the float32 file of `onnx`, and an engine of a file of `onnx`, so that those are always made.
"""

import dataclasses
from collections.abc import Sequence

from export.engine.flavours import FLAVOURS
from export.file_metadata import Int8Target
from ssd_deploy.benchmark.fastest.forms import FLOAT, Form, file_forms
from ssd_deploy.bundles import BUNDLES, Bundle
from ssd_train.errors import BackendError
from ssd_train.table import Table

ONNX = "onnx"
HALF = Form(precision="fp16")
BYTE = Form(precision="int8", target=Int8Target.PORTABLE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One row.

    Attributes:
        name: what `--targets` calls it, and its folder.
        title: what it is for, in a few words.
        forms: ONNX files that it delivers.
        engines_of: files of `onnx` that it builds an engine of, in the flavour of its name.
        takes_capabilities: compute capabilities may follow behind a colon.
        bundle: row of the table of bundles that is written for it; None for none.
    """

    name: str
    title: str
    forms: tuple[Form, ...] = ()
    engines_of: tuple[Form, ...] = ()
    takes_capabilities: bool = False
    bundle: Bundle | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A target as it was asked for.

    Attributes:
        target: its row.
        capabilities: compute capabilities to build for, such as 89; empty for the row's usual ones.
    """

    target: Target
    capabilities: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.target.name + (":" + "+".join(map(str, self.capabilities)) if self.capabilities else "")

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return "-".join((self.target.name, *map(str, self.capabilities)))


TARGETS: Table[Target] = Table(
    "target",
    (
        Target(name=ONNX, title="ONNX files for any machine", forms=(FLOAT, HALF, BYTE)),
        Target(
            name="cpu",
            title="ONNX files for CPUs, some for this one alone",
            forms=tuple(form for form in file_forms(["fp32", "int8"], [Int8Target.CPU], for_cpu=True) if form != FLOAT),
        ),
        *(
            Target(
                name=flavour.name,
                title="engines for NVIDIA's GPUs",
                engines_of=(HALF, BYTE),
                takes_capabilities="target_sm" in flavour.own_options,
            )
            for flavour in FLAVOURS.values()
        ),
        *(Target(name=row.name, title=row.title, bundle=row) for row in BUNDLES.values()),
    ),
    BackendError,
)


def parse_targets(text: str) -> tuple[Asked, ...]:
    """Read a list such as `cpu,onnx,tensorrt-rtx:75+89`.

    Raises:
        BackendError: no such target, one is named twice, or what stands behind a colon is no compute capability.
    """
    asked: list[Asked] = []
    for word in filter(None, map(str.strip, text.split(","))):
        name, colon, rest = word.partition(":")
        target = TARGETS.find(name)
        numbers = rest.split("+") if colon else []
        if colon and not target.takes_capabilities:
            raise BackendError(f"target {word!r}: {name} takes nothing behind a colon", arguments=("targets",))
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            raise BackendError(
                f"target {word!r}: expected compute capabilities, as in {name}:75+89", arguments=("targets",)
            )
        asked.append(Asked(target=target, capabilities=tuple(dict.fromkeys(map(int, numbers)))))
    if not asked:
        raise BackendError(f"no target is named; choose {', '.join(TARGETS)}", arguments=("targets",))
    if len({each.folder for each in asked}) < len(asked):
        raise BackendError(f"{text!r} names a target twice; name each once", arguments=("targets",))
    return tuple(asked)


def forms_of(asked: Sequence[Asked]) -> list[Form]:
    """Return every ONNX file that targets need, each behind the one that it is made of."""
    forms = [FLOAT]
    for each in asked:
        forms += [*each.target.forms, *each.target.engines_of, *([HALF] if each.target.bundle is not None else [])]
    return list(dict.fromkeys(forms))
