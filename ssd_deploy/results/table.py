"""The table of results: what `--save` names, what each can be made of, and how it is opened."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ssd_train.errors import SSDDeployError

if TYPE_CHECKING:
    from ssd_deploy.results.base import Run, Writer
    from ssd_deploy.sources.frame import SourceInfo, SourceKind

EVERYTHING: "tuple[SourceKind, ...]" = ("pictures", "video", "live")
MOVING: "tuple[SourceKind, ...]" = ("video", "live")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultKind:
    """A row of the table.

    Attributes:
        about: what it writes, for people.
        module, writer: where its `Writer` is; imported when it is asked for.
        takes: kinds of sources it can be made of.
        default_for: kinds of sources that it is written for where nothing is asked for.
        file: the one file that it writes, where its name is always the same.
    """

    about: str
    module: str
    writer: str
    takes: "tuple[SourceKind, ...]" = EVERYTHING
    default_for: "tuple[SourceKind, ...]" = ()
    file: str | None = None

    def open(self, run: "Run") -> "Writer":
        """Return a writer for a run. Raises SSDDeployError where it cannot write there."""
        opener: Callable[[Run], Writer] = getattr(importlib.import_module(self.module), self.writer)
        return opener(run)


RESULTS = {
    "pictures": ResultKind(
        about="annotated pictures", module="ssd_deploy.results.pictures", writer="PictureWriter",
        default_for=("pictures",),
    ),
    "video": ResultKind(
        about="an annotated video", module="ssd_deploy.results.video", writer="VideoWriter", takes=MOVING,
        default_for=("video",),
    ),
    "json": ResultKind(
        about="detections.json", module="ssd_deploy.results.json_file", writer="JsonWriter", default_for=EVERYTHING,
        file="detections.json",
    ),
    "coco": ResultKind(
        about="coco.json, a COCO file with scores", module="ssd_deploy.results.coco_file", writer="CocoWriter",
        file="coco.json",
    ),
    "yolo": ResultKind(
        about="labels/*.txt and classes.txt", module="ssd_deploy.results.yolo_files", writer="YoloWriter"
    ),
    "voc": ResultKind(about="Annotations/*.xml", module="ssd_deploy.results.voc_files", writer="VocWriter"),
    "csv": ResultKind(
        about="detections.csv", module="ssd_deploy.results.csv_file", writer="CsvWriter", file="detections.csv"
    ),
    "crops": ResultKind(
        about="crops/CLASS/*, what was found, cut out", module="ssd_deploy.results.crops", writer="CropWriter"
    ),
}  # fmt: skip


def choose(save: Sequence[str] | None, sources: "Sequence[SourceInfo]") -> "dict[str, tuple[SourceKind, ...]]":
    """Return the results to write, and the kinds of sources that each is made of.

    Args:
        save: names of rows; None for what is usual of each source.
        sources: what there is.

    Raises:
        SSDDeployError: no such row, or one that none of the sources gives.
    """
    kinds = tuple(dict.fromkeys(info.kind for info in sources))
    if save is None:
        usual = {name: tuple(kind for kind in kinds if kind in row.default_for) for name, row in RESULTS.items()}
        return {name: of for name, of in usual.items() if of}
    unknown = [name for name in save if name not in RESULTS]
    if unknown or not save:
        raise SSDDeployError(
            f"{', '.join(unknown) or 'nothing'} is no kind of result; choose of {', '.join(RESULTS)}",
            arguments=("save",),
        )
    chosen = {name: tuple(kind for kind in kinds if kind in RESULTS[name].takes) for name in save}
    for name, of in chosen.items():
        if not of:
            raise SSDDeployError(
                f"{name} is made of {' and '.join(RESULTS[name].takes)} sources, and {sources[0].name} is "
                f"{sources[0].kind}; save others ({', '.join(RESULTS)})",
                arguments=("save",),
            )
    return chosen
