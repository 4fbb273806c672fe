"""What a detector may run as: the network itself in a precision, or a file that the export steps make of it."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.file_metadata import Int8Target
from export.quantize_options import QuantizeOptions
from export.step import OnnxStep
from export.steps import STEPS
from ssd_deploy.model_source import export_network
from ssd_train.errors import SSDDeployError
from ssd_train.precisions import PRECISIONS, in_precision

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

# The steps from a file to a faster one for CPUs.
REWRITES = {name: step for name, step in STEPS.items() if isinstance(step, OnnxStep) and step.is_for_speed}

# What reports call a step of these; another one goes by its own name.
TITLES = {"winograd": "Winograd", "cpu": "this CPU's graph"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """One of them.

    Attributes:
        precision: of the network or the file; one that is calibrated is made of the float32 file.
        is_network: it is run by a backend that takes networks; otherwise a file.
        target: of int8, what it was quantized for.
        steps: names of the steps behind the precision, each of `REWRITES`.
    """

    precision: str
    is_network: bool = False
    target: Int8Target | None = None
    steps: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.is_network:
            return f"network in {self.precision}"
        target = f" for {'any' if self.target == Int8Target.PORTABLE else 'the'} CPU" if self.target else ""
        return ", ".join((self.precision + target, *(TITLES.get(step, step) for step in self.steps)))

    @property
    def answers_as(self) -> "Form":
        """The form that finds the same to the last bit, as its step was checked to: one that has to be scored."""
        return dataclasses.replace(self, steps=tuple(step for step in self.steps if REWRITES[step].allowed > 0))

    @property
    def is_standard(self) -> bool:
        """Whether it has ONNX's operators alone, which every backend of such files may take."""
        return all(REWRITES[step].only_standard_operators for step in self.steps)


FLOAT = Form(precision="fp32")


def network_forms(precisions: Sequence[str]) -> list[Form]:
    """Return a network in all of some precisions that it computes in."""
    return [Form(precision=name, is_network=True) for name in precisions if PRECISIONS[name].in_network]


def file_forms(precisions: Sequence[str], targets: Sequence[Int8Target], *, for_cpu: bool) -> list[Form]:
    """Return all files in some precisions, each right behind the one that it is made of.

    Args:
        targets: of what is calibrated.
        for_cpu: rewrite them, too: what that makes is refused on a GPU.
    """
    made = [
        Form(precision=name, target=target)
        for name in precisions
        if PRECISIONS[name].in_file
        for target in (targets if PRECISIONS[name].needs_calibration else (None,))
    ]
    return [form for each in made for form in _with_rewrites(each)] if for_cpu else made


def _with_rewrites(form: Form) -> Iterator[Form]:
    """Yield a form, and all that the steps which rewrite a file make of it."""
    yield form
    behind = ({form.precision} & STEPS.keys()) | set(form.steps)
    for step in REWRITES.values():
        takes = step.takes in (None, form.precision) and behind <= set(step.follows)
        if takes and step.name not in behind:
            yield from _with_rewrites(dataclasses.replace(form, steps=(*form.steps, step.name)))


class Made:
    """Makes forms when they are asked for, each once; what cannot be made fails again at once.

    Args:
        float_file: the exported float32 file; None where it is to be made of the network.
        network: the float32 network; None where there is only a file.
        int8: how to calibrate; its target is the form's.
        folder: empty, for files; each kind lies in its own.
    """

    def __init__(self, float_file: Path | None, network: "SSD | None", int8: QuantizeOptions, folder: Path) -> None:
        self.network = network
        self.int8 = int8
        self._folder = folder
        self._made: dict[Form, Path | SSDDeployError] = {}
        if float_file is not None:
            self._made[FLOAT] = float_file

    def model(self, form: Form) -> "SSD | Path":
        """Return what a backend opens.

        Raises:
            BackendError, ModelError, NetworkError, SSDDeployError: it cannot be made, or there is nothing to gain.
        """
        if form.is_network:
            assert self.network is not None
            return in_precision(self.network, form.precision)
        if form not in self._made:
            try:
                self._made[form] = self.make(form)
            except SSDDeployError as error:
                self._made[form] = error
        made = self._made[form]
        if isinstance(made, SSDDeployError):
            raise made
        return made

    def path(self, form: Form) -> Path:
        """Return a form that is a file."""
        model = self.model(form)
        assert isinstance(model, Path)
        return model

    def named_shortly(self, text: str) -> str:
        """Return a message without the folder of these files, which is gone when it is read."""
        return re.sub(rf"{re.escape(str(self._folder))}/\w+/", "", text)

    def folder_of(self, form: Form) -> Path:
        """Return the folder of a form's file: files for different targets have one name."""
        return self._folder / (form.target or "float")

    def make(self, form: Form) -> Path:
        """Make a form, what it is made of included; `model` makes each once."""
        folder = self.folder_of(form)
        folder.mkdir(parents=True, exist_ok=True)
        if form.steps:
            before = dataclasses.replace(form, steps=form.steps[:-1])
            return _applied(form.steps[-1], self.path(before), folder)
        if PRECISIONS[form.precision].needs_calibration:
            int8 = dataclasses.replace(self.int8, int8_target=form.target)
            return _applied(form.precision, self.path(FLOAT), folder, int8)
        assert self.network is not None
        return export_network(self.network, folder, form.precision)


def _applied(step: str, source: Path, folder: Path, settings: QuantizeOptions | None = None) -> Path:
    result = STEPS[step].apply(source, folder, settings)
    if result.path is None:
        raise SSDDeployError("; ".join(result.notes))
    return result.path
