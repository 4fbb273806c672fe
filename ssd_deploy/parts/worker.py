"""One part, from names to files, by a detector that stays open for the next."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ssd_deploy.backends.base import Runner
from ssd_deploy.detect_options import Thresholds
from ssd_deploy.parts.listing import Part
from ssd_deploy.parts.results import FORMATS, PartResult, Row, file_of, finish
from ssd_train.cpus import cpu_threads
from ssd_train.errors import ImageError
from ssd_train.escaped_text import escaped
from ssd_train.evaluation.loop import detect_images
from ssd_train.preprocess import load_image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is the same for all parts of a run; it can be pickled.

    Attributes:
        folder: of the results.
        open_runner: opens the detector, in whatever process.
        formats: rows of `FORMATS`.
        thresholds: what is given out.
        batch_size: images a call; a part's size is a multiple, so that batches are those of a run in one piece.
        workers: threads that load and pre-process.
        threads: CPU threads of the detector.
        max_pixels: most that a picture may have.
    """

    folder: Path
    open_runner: Callable[[], Runner]
    formats: Sequence[str]
    thresholds: Thresholds
    batch_size: int
    workers: int
    threads: int
    max_pixels: int


class PartWorker:
    """Opens the detector of a job, and does its parts one after the other."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(cpu_threads(job.threads))
        self.runner = job.open_runner()
        self._closing.callback(self.runner.close)
        self.keeping = job.thresholds.keeping(self.runner.spec)

    def run(self, part: Part) -> PartResult:
        """Detect in a part's pictures, and write its files.

        Raises:
            ImageError: the list of its pictures cannot be read; a picture that cannot be is a row with its error.
            BackendError: the backend answered with something that is no detections.
            SSDDeployError: the files cannot be written.
        """
        start = time.perf_counter()
        rows = self._rows(part)
        for name in self.job.formats:
            row = FORMATS[name]
            row.write(rows, self.runner.spec, file_of(self.job.folder, part, row.suffix))
        found = [row.detections for row in rows if row.detections is not None]
        result = PartResult(
            index=part.index,
            pictures=len(rows),
            broken=len(rows) - len(found),
            detections=sum(map(len, found)),
            backend=self.runner.name,
            seconds=time.perf_counter() - start,
        )
        finish(self.job.folder, result)
        return result

    def _rows(self, part: Part) -> list[Row]:
        rows: dict[int, Row] = {}

        def name_of(item: tuple[int, Path]) -> str:
            return str(item[1])

        def failed(item: tuple[int, Path], error: ImageError) -> None:
            rows[item[0]] = Row(index=item[0], path=escaped(name_of(item)), error=escaped(str(error)))

        found = detect_images(
            enumerate(part.paths(), part.start),
            lambda item: load_image(item[1], max_pixels=self.job.max_pixels),
            self.runner.run,
            self.runner.spec,
            name_of=name_of,
            batch_size=min(self.job.batch_size, self.runner.max_batch_size or self.job.batch_size),
            workers=self.job.workers,
            on_failed=failed,
        )
        for each in found:
            detections = each.detections
            assert detections.image_size is not None
            kept = self.keeping.apply(detections.clipped(detections.image_size))
            rows[each.item[0]] = Row(index=each.item[0], path=escaped(name_of(each.item)), detections=kept)
        return [rows[index] for index in sorted(rows)]

    def close(self) -> None:
        """Give back what the detector holds; may be called twice."""
        self._closing.close()
