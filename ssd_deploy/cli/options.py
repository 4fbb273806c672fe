"""Options that several commands share, and what they stand for."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from export.quantize_options import QuantizeOptions
from ssd_deploy.backends import AUTO, BACKENDS, BackendChoice, RunOptions, parse_backend
from ssd_deploy.model_source import ModelSource, find_model, is_address, is_exported, open_runner
from ssd_train.command_line import written
from ssd_train.datasets.layouts import LAYOUTS
from ssd_train.errors import ModelError
from ssd_train.metrics.table import METRICS
from ssd_train.options import about, option
from ssd_train.paths import user_path
from ssd_train.pixel_limit import ReadingPictures
from ssd_train.precisions import PRECISIONS
from ssd_train.requirements import require_installed
from ssd_train.weights.description import BATCH_NORMS, BatchNorm

if TYPE_CHECKING:
    from ssd_deploy.backends.base import Runner
    from ssd_train.datasets.dataset import Dataset
    from ssd_train.datasets.source import DataSource
    from ssd_train.networks.ssd import SSD

_log = logging.getLogger(__name__)

MODEL_HELP = (
    "A network (see `ssd-deploy models`), a run folder, a weight file, an .onnx or an .engine file, or the address of "
    "a served model."
)
ModelArgument = Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP, show_default=False)]
ModelsArgument = Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help=MODEL_HELP, show_default=False)]
IMAGES_HELP = "Image file, folder with its sub-folders, or pattern; may be repeated."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Naming:
    """How a detector is named by options, beside or instead of MODEL."""

    network: str | None = option(None, "Network of MODEL's weights, or instead of MODEL.")
    weights: str | None = option(
        None, "Weights of a network: a file, shapes or random[:SEED]; without it the published ones are fetched."
    )
    classes: Path | None = option(None, "Class list of a _custom network: a text file, a name a line.")
    batch_norm: BatchNorm = option(
        "auto",
        "Of a pytorch-cv file's added levels: gluoncv's arithmetic, its own, or what its content tells.",
        choices=BATCH_NORMS,
    )

    def class_list(self) -> Sequence[str] | None:
        if self.classes is None:
            return None
        from ssd_train.class_list import read_class_list

        return read_class_list(self.classes)

    def find(self, names: Sequence[str]) -> list[ModelSource]:
        """Return what MODEL and these options name, at least one detector."""
        files = [name for name in names if is_address(name) or is_exported(user_path(name, ModelError))]
        networks = [name for name in names if name not in files]
        if self.network is not None and not networks:
            networks = [self.network]
        if not networks and not files:
            raise typer.BadParameter("name a model: a network, a run folder, a weight file, an .onnx or .engine file")
        if self.network is not None and len(networks) > 1:
            raise typer.BadParameter(f"{self.network} is one network, but {', '.join(networks)} are several")
        for of_network in ("weights", "classes"):
            if not networks and getattr(self, of_network) is not None:
                raise typer.BadParameter("an exported model has its own", param_hint=f"'--{of_network}'")
        if networks:
            # Before data are looked for, and anything else that a light installation would do for nothing.
            require_installed("torch", "export", "A PyTorch network")
            require_installed("safetensors", "export", "A weight file")
        found = [
            find_model(
                name,
                network=self.network,
                weights=self.weights,
                classes=self.class_list(),
                batch_norm=self.batch_norm,
            )
            for name in networks
        ]
        return [*found, *map(find_model, files)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneModel(Naming):
    model: str | None = option(None, "MODEL as an option.")

    def source(self, name: str | None) -> ModelSource:
        """Return the one detector that is named."""
        sources = self.find([each for each in (name, self.model) if each is not None])
        if len(sources) > 1:
            raise typer.BadParameter(f"{sources[0].name} and {sources[1].name} are two models; name one")
        return sources[0]


def find_reference(sources: Sequence[ModelSource]) -> ModelSource:
    """Return the one network among models that the others are held against, or the one adopted file without any."""
    networks = [source for source in sources if source.network is not None]
    if not networks:
        from ssd_deploy.parity.reference import is_adopted

        networks = [source for source in sources if source.file is not None and is_adopted(source.file)]
    if len(networks) != 1:
        raise typer.BadParameter(
            f"{len(networks)} networks are named; name the one that is the reference (a network, a run folder, a "
            "weight file or a file that was adopted), and files that were made of it"
        )
    return networks[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeveralModels(Naming):
    model: tuple[str, ...] = option((), "MODEL as an option; may be repeated.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnDevice(ReadingPictures):
    device: str | None = option(None, "auto, cpu or cuda[:N]; without it the backend's usual one.")
    cuda: bool = option(False, "Run on the GPU, or on the CPU.", names=("--cuda/--cpu",))
    allow_tf32: bool = option(False, "Let the GPU round FP32 products to TF32.")

    def name(self, *others: str | None) -> str | None:
        """Return the one device that these options, and others of the command, name; None where none does."""
        asked = [self.device, "cuda" if self.cuda else None, *others]
        devices = list(dict.fromkeys(device for device in asked if device is not None))
        if len(devices) > 1:
            raise typer.BadParameter(f"{' and '.join(devices)} contradict each other; name one device")
        return devices[0] if devices else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running(OnDevice):
    """How a detector runs."""

    backend: str = option(
        AUTO,
        f"{', '.join((AUTO, *BACKENDS))}; a device and variants may follow a colon, as in torch:cuda+channels-last.",
    )
    provider: str | None = option(None, "ONNX Runtime's device.", choices=BACKENDS["onnxruntime"].devices)
    cuda_graph: bool = option(False, "Record the GPU's work once for each batch size and replay it.")

    def open(
        self, source: ModelSource, *, batch_size: int, precision: str | None, int8: QuantizeOptions | None
    ) -> "Runner":
        """Open a detector, with a bar where its weights are downloaded."""
        from ssd_deploy.progress import download_progress

        opener = self.opener(source, batch_size=batch_size, precision=precision, int8=int8)
        with download_progress(source.name) as on_progress:
            return opener(on_progress=on_progress)

    def opener(
        self, source: ModelSource, *, batch_size: int, precision: str | None, int8: QuantizeOptions | None
    ) -> "functools.partial[Runner]":
        """Return a function that opens a detector, here or in another process."""
        choice = self._choice()
        is_onnxruntime = choice.backend.name == "onnxruntime" if choice else source.file is not None
        if self.provider is not None and not is_onnxruntime:
            raise typer.BadParameter(
                f"{self.provider} is for ONNX Runtime: add --backend onnxruntime, or use --device",
                param_hint="'--provider'",
            )
        variants = (*(choice.variants if choice else ()), *(("cuda-graph",) if self.cuda_graph else ()))
        options = RunOptions(
            device=self.place(),
            variants=tuple(dict.fromkeys(variants)),
            batch_size=batch_size,
            allow_tf32=self.allow_tf32,
            threads=self.threads,
            beside_readers=True,
        )
        backend = choice.backend.name if choice else AUTO
        return functools.partial(open_runner, source, options, backend=backend, precision=precision, int8=int8)

    def place(self) -> str | None:
        """Return the device that is asked for, by whichever option; None where none is."""
        choice = self._choice()
        return self.name(self.provider, choice.device if choice else None)

    def _choice(self) -> BackendChoice | None:
        return None if self.backend == AUTO else parse_backend(self.backend)

    def for_other_processes(self, source: ModelSource) -> tuple["Running", ModelSource]:
        """Return how a detector runs where several share a machine, and where another process finds it."""
        file = None if source.file is None else source.file.absolute()
        weights = source.weights.absolute() if isinstance(source.weights, Path) else source.weights
        return (
            dataclasses.replace(self, threads=self.threads or 1),
            dataclasses.replace(source, file=file, weights=weights),
        )


def loaded(source: ModelSource) -> "SSD":
    """Load a network, with a bar where its weights are downloaded."""
    from ssd_deploy.progress import download_progress

    with download_progress(source.name) as on_progress:
        return source.load(on_progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnePrecision:
    precision: str | None = option(
        None,
        "What a network computes in, or a float32 file in a backend that can; without it fp32.",
        choices=PRECISIONS,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration(QuantizeOptions):
    """How to calibrate, for a command that has another `max_drop`: no layer is kept float by what it costs."""

    # Plain fields, of which no option is made.
    sensitivity: bool = False
    max_drop: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeveralPrecisions:
    precision: str | None = option(None, "What a network computes in, several with commas between; without it fp32.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Images with ground truth."""

    data: str | None = option(None, f"{', '.join(LAYOUTS)}, or a folder in such a layout.")
    dataset: str | None = option(None, "--data by its layout; --data-root names its folder.")
    data_root: Path | None = option(None, "Folder of --dataset; default ~/.torch/datasets and the layout's name.")
    annotations: Path | None = option(None, "A COCO file instead of --data; with --images.")
    split: str | None = option(None, "voc: test, 2007_test, 2007_trainval,2012_trainval; coco: val2017.")
    val_share: float | None = option(
        None, "Evaluate the part that a training with this --val-share held out.", above=0, below=1
    )
    metric: str | None = option(None, "Score by it, and not by the layout's own.", choices=METRICS)
    protocol: str = option(
        "standard",
        "standard: the data set's own rules; gluoncv: those of GluonCV's published table.",
        choices=("standard", "gluoncv"),
    )
    limit: int | None = option(None, "Use the first N images only.", least=1)

    @property
    def is_named(self) -> bool:
        return self.data is not None or self.dataset is not None or self.annotations is not None

    def load(self, class_names: tuple[str, ...], images: Path | None = None) -> "tuple[Dataset, str]":
        """Read the annotations; returns them and the name of the metric that fits them.

        Args:
            class_names: the detector's.
            images: folder of the images that `annotations` lists.
        """
        source = self.source(images)
        _log.info("data: %s in %s", source.layout.title, source.root)
        return source.load(self.split, class_names).limited(self.limit), self.metric or source.layout.metric

    def source(self, images: Path | None = None) -> "DataSource":
        """Return the data set that is named, not read yet; see `load`."""
        from ssd_train.datasets.source import find_source

        if self.data is not None and self.dataset is not None:
            raise typer.BadParameter(f"{self.data} and {self.dataset} are two data sets; name one")
        if not self.is_named and images is None:
            raise typer.BadParameter(f"name a data set: {', '.join(LAYOUTS)} or a folder", param_hint="'--data'")
        return find_source(
            self.data or self.dataset,
            self.data_root,
            annotations=self.annotations,
            images=images,
            val_share=self.val_share,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredData(Data):
    """The same for a command that takes no other images."""

    images: Path | None = option(None, "Folder of the images that --annotations lists.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loading:
    batch_size: int = option(8, "Images a call.", least=1)
    workers: int = option(
        2, "Threads that load and pre-process, beside those of --threads.", names=("-j", "--workers"), least=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Images without ground truth."""

    images: tuple[str, ...] = option((), IMAGES_HELP)

    def split_off(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Tell models from images among a command's words: a shell expands `--images *.jpg` to further words."""
        from ssd_train.preprocess import IMAGE_SUFFIXES

        if not self.images:
            return list(words), []
        images = [word for word in words if word.lower().endswith(IMAGE_SUFFIXES)]
        return [word for word in words if word not in images], [*self.images, *images]


def refuse(ctx: typer.Context, what: Sequence[Any], isrefused: bool, needed: str) -> None:
    """Raise Typer's error for given options that lack what they need; `what` are their names, or dataclasses."""
    names = {
        name
        for each in what
        for name in (
            [each] if isinstance(each, str) else [field.name for field in dataclasses.fields(each) if about(field)]
        )
    }
    given = [param for param in ctx.command.params if param.name in names & written(ctx)]
    if isrefused and given:
        raise typer.BadParameter(f"needs {needed}", param_hint=f"'{given[0].opts[-1]}'")


def check_calibrated(
    ctx: typer.Context, precisions: Sequence[str], options: type[QuantizeOptions] = QuantizeOptions
) -> bool:
    """Return whether a precision needs calibration; raise Typer's error for its options where none does."""
    is_calibrated = any(PRECISIONS[name].needs_calibration for name in precisions)
    refuse(ctx, (options,), not is_calibrated, "--precision int8")
    return is_calibrated
