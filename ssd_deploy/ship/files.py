"""The files of a shipment: made by the export steps, each a stage of its own."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.engine.file import BuildOptions
from export.quantize_options import QuantizeOptions
from ssd_deploy.benchmark.fastest.forms import FLOAT, Form, Made
from ssd_deploy.exporting import engine_settings, run_step
from ssd_deploy.ship.stages import Stages, name_in
from ssd_deploy.ship.targets import TARGETS, Asked
from ssd_train.errors import SSDDeployError
from ssd_train.files import sha256_of_file, written_atomically

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A model file.

    Attributes:
        path: where it lies.
        form: what it is, or what an engine was made of.
        what: the same in words.
        made_of: the file that it was made of; None for those that come first.
    """

    path: Path
    form: Form
    what: str
    made_of: Path | None


class StagedFiles(Made):
    """Makes forms, each in a stage that is kept.

    Args:
        network: float32; or a file that was adopted, which is copied in place of an export.
        int8: how to calibrate.
        calibration: what stands for the images that are calibrated on, as plain values.
        stages: of this run; files are written below its folder.
    """

    def __init__(self, network: "SSD | Path", int8: QuantizeOptions, calibration: object, stages: Stages) -> None:
        self._adopted = network if isinstance(network, Path) else None
        super().__init__(None, None if isinstance(network, Path) else network, int8, stages.folder)
        self._stages = stages
        self._calibration = calibration

    def folder_of(self, form: Form) -> Path:
        """Return the folder of the target that delivers a form."""
        owner = next(target.name for target in TARGETS.values() if form in target.forms)
        return self._stages.folder / owner

    def made_of(self, form: Form) -> Path | None:
        """Return the file that a form is made of."""
        if form.steps:
            return self.path(dataclasses.replace(form, steps=form.steps[:-1]))
        return None if form.target is None else self.path(FLOAT)

    def make(self, form: Form) -> Path:
        source = self.made_of(form)
        if source is None and self._adopted is not None and form != FLOAT:
            raise SSDDeployError(f"{form} is made of a network, and this is a file that was adopted")
        settings = dataclasses.asdict(dataclasses.replace(self.int8, calibration_data=None))
        inputs = {
            "form": str(form),
            "source": self._origin() if source is None else sha256_of_file(source),
            "int8": [settings, self._calibration] if form.target is not None else None,
        }

        def work() -> tuple[dict[str, str], Sequence[Path]]:
            path = self._copied(form) if form == FLOAT and self._adopted else super(StagedFiles, self).make(form)
            return {"path": name_in(path, self._stages.folder)}, [path]

        values = self._stages.run(f"{self.folder_of(form).name} {form}", inputs, work)
        return self._stages.folder / values["path"]

    def _origin(self) -> object:
        """Return plain values that stand for what all is made of."""
        if self._adopted is not None:
            return sha256_of_file(self._adopted)
        assert self.network is not None
        return dataclasses.asdict(self.network.spec)

    def _copied(self, form: Form) -> Path:
        assert self._adopted is not None
        path = self.folder_of(form) / self._adopted.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as temporary:
            shutil.copyfile(self._adopted, temporary)
        return path


def build_engine(stages: Stages, asked: Asked, source: Model) -> Model:
    """Build an engine of an ONNX file for what was asked for.

    Raises:
        BackendError, ModelError: it cannot be built here.
    """
    flavour = asked.target.name
    options = BuildOptions(target_sm=asked.capabilities)
    inputs = {"source": sha256_of_file(source.path), "options": options.built_with()}

    def work() -> tuple[dict[str, str], Sequence[Path]]:
        built = run_step(flavour, source.path, stages.folder / asked.folder, engine_settings(options, flavour))
        assert built.path is not None
        return {"path": name_in(built.path, stages.folder)}, [built.path, *built.files]

    values = stages.run(f"{asked} {source.form}", inputs, work)
    path = stages.folder / values["path"]
    return Model(path=path, form=source.form, what=f"{source.what}, engine of {asked}", made_of=source.path)


def write_bundle(stages: Stages, asked: Asked, source: Model) -> None:
    """Write a bundle of an ONNX file.

    Raises:
        SSDDeployError: as the bundle's row.
    """
    folder, bundle = stages.folder / asked.folder, asked.target.bundle
    assert bundle is not None

    def work() -> tuple[dict[str, str], Sequence[Path]]:
        # A bundle takes an empty folder. What lies there is of an earlier run, since this whole folder is.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return {}, [path for path in bundle.write(source.path, folder) if path.is_file()]

    stages.run(str(asked), {"source": sha256_of_file(source.path)}, work)
