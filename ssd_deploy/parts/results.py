"""The results of a part: a row a picture, in files that are whole or absent."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ssd_deploy.parts.listing import Part
from ssd_deploy.results.coco_file import annotation, categories
from ssd_train.detection_formats import to_coco
from ssd_train.detections import Detections
from ssd_train.errors import SSDDeployError
from ssd_train.files import to_json, write_json, written_atomically
from ssd_train.json_input import JSONError, read_json
from ssd_train.spec import DetectorSpec
from ssd_train.table import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one picture.

    Attributes:
        index: which of all pictures, from 0.
        path: its name, escaped as `escaped_text` says.
        detections: clipped to it; None where it could not be read.
        error: why; empty where it could.
    """

    index: int
    path: str
    detections: Detections | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartResult:
    """What came of a part.

    Attributes:
        index: which.
        pictures: how many it has, broken ones included.
        broken: how many of them could not be read.
        detections: how many were given out.
        backend: what ran it.
        seconds: how long it took.
    """

    index: int
    pictures: int
    broken: int
    detections: int
    backend: str
    seconds: float


SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("path", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("scores", pa.list_(pa.float32())),
        ("labels", pa.list_(pa.int32())),
        ("error", pa.string()),
    ]
)


def write_parquet(rows: Sequence[Row], spec: DetectorSpec, path: Path) -> None:
    """Write a table: boxes xyxy in pixels of the upright picture, None throughout where there is an error."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for row in rows:
        found = row.detections
        height, width = (None, None) if found is None or found.image_size is None else found.image_size
        values = (
            row.index,
            row.path,
            height,
            width,
            None if found is None else found.boxes.tolist(),
            None if found is None else found.scores,
            None if found is None else found.labels,
            row.error or None,
        )
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    about = {"detector": json.dumps(spec.to_metadata()), "class_names": json.dumps(spec.class_names)}
    table = pa.table(columns, schema=SCHEMA.with_metadata(about))
    with written_atomically(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_coco(rows: Sequence[Row], spec: DetectorSpec, path: Path) -> None:
    """Write a COCO file with scores, whose ids are those that one file of all parts would have."""
    images, annotations, broken = [], [], []
    for row in rows:
        if row.detections is None or row.detections.image_size is None:
            broken.append({"file_name": row.path, "error": row.error})
            continue
        height, width = row.detections.image_size
        images.append({"id": row.index + 1, "file_name": row.path, "height": height, "width": width})
        # Each picture has as many ids as it may have detections, so that no part needs to know of another.
        first = row.index * spec.postprocess.max_detections + 1
        results = to_coco(row.detections, row.index + 1)
        annotations += [annotation(result, number) for number, result in enumerate(results, first)]
    with written_atomically(path) as temporary:
        content = {
            "images": images,
            "annotations": annotations,
            "categories": categories(spec.class_names),
            "broken": broken,
        }
        temporary.write_text(to_json(content, indent=None), encoding="utf-8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A row of the table: what the files of parts are."""

    name: str
    suffix: str
    write: Callable[[Sequence[Row], DetectorSpec, Path], None]


FORMATS: Table[Format] = Table(
    "format of parts",
    (
        Format(name="parquet", suffix=".parquet", write=write_parquet),
        Format(name="coco", suffix=".coco.json", write=write_coco),
    ),
    SSDDeployError,
)


def file_of(folder: Path, part: Part | PartResult, suffix: str) -> Path:
    return folder / f"part-{part.index:06d}{suffix}"


# Written last: a part that has it is done.
RESULT_SUFFIX = ".done.json"


def finish(folder: Path, result: PartResult) -> None:
    """Note that a part's files are whole."""
    write_json(file_of(folder, result, RESULT_SUFFIX), dataclasses.asdict(result))


def finished(folder: Path, parts: Iterable[Part]) -> dict[int, PartResult]:
    """Return what came of the parts that are done; one whose note cannot be read is done again."""
    done = {}
    for part in parts:
        path = file_of(folder, part, RESULT_SUFFIX)
        if path.is_file():
            try:
                done[part.index] = read_json(path, PartResult)
            except JSONError:
                continue
    return done
