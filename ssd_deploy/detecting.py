"""The command `detect` as a function: sources in, results out.

Frames come from their sources, go through the one loop of every backend, and on to the writers, which work behind the
network. Nothing here knows a kind of source or of result.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.detect_options import Thresholds
from ssd_deploy.detected import Detected, DetectedPicture, DetectedSource
from ssd_deploy.detector import Detector
from ssd_deploy.results.base import Ending, Outcome, Run, Writer
from ssd_deploy.results.behind import WriteBehind
from ssd_deploy.results.table import RESULTS, choose
from ssd_deploy.sources.base import Source
from ssd_deploy.sources.frame import Frame, SourceInfo, SourceKind
from ssd_deploy.stream import detect_source
from ssd_deploy.tiling import Tiling
from ssd_deploy.tracking import Tracker, check_installed
from ssd_train.detections import PaddedDetections
from ssd_train.ending_signals import held, let_through, raise_noted
from ssd_train.errors import ResultError, SSDDeployError
from ssd_train.evaluation.loop import Found
from ssd_train.files import remove_unfinished
from ssd_train.preprocess import Images
from ssd_train.thresholds import Keeping, nothing_found

_log = logging.getLogger(__name__)

# Sentences about one stream that are kept; one that breaks all day would fill the memory.
MOST_PROBLEMS = 1000


class Viewer(Protocol):
    """A window that pictures are shown in."""

    def show(self, image: NDArray[np.uint8], name: str, *, waits: bool) -> bool:
        """Show a picture, until a key where it `waits`; returns whether more are wanted."""


def detect_sources(
    detector: Detector,
    sources: Sequence[Source],
    out_dir: Path,
    *,
    save: Sequence[str] | None = None,
    kept: Keeping | None = None,
    tiling: Tiling | None = None,
    track: bool = False,
    viewer: Viewer | None = None,
    workers: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> Detected:
    """Detect in all sources and write results.

    What cannot be read is reported, as is a picture's result that cannot be written for its name or size, and the rest
    goes on. Whatever ends the run, Ctrl-C and other ending signals too, what was found up to then is written and stays;
    such a signal is the ordinary end of a camera or a stream. Boxes in results are xyxy in pixels of the upright
    picture, clipped to it.

    Args:
        detector: any.
        sources: at least one, open; they stay open.
        out_dir: folder of the results, made if missing; results of the same name are replaced, the sources never.
        save: rows of `ssd_deploy.results.table.RESULTS`; None for what is usual of each source.
        kept: thresholds; None for the detector's saved ones, else 0.5.
        tiling: cuts large pictures; None for none.
        track: whether objects of videos and streams get numbers.
        viewer: is shown every picture with its detections.
        workers: threads that load and pre-process, and as many that draw and write; at least 1.
        on_progress: called with the number of frames done so far.

    Raises:
        SSDDeployError: results cannot be written, as on a full disk, or none of the sources gives one; a result would
            replace a source; pictures are to be tracked.
        BackendError: the backend answered with something that is no detections, such as NaN, or a package is missing.
    """
    infos = [source.info for source in sources]
    chosen = check_request(infos, out_dir, save=save, track=track)
    remove_unfinished(out_dir)
    # They are listed, not loaded.
    frames: list[Iterable[Frame]] = [
        list(source.frames()) if source.info.kind == "pictures" else source.frames() for source in sources
    ]
    run = Run(
        out_dir=out_dir,
        backend=detector.runner.name,
        spec=detector.spec,
        keeping=kept or Thresholds().keeping(detector.spec),
        sources=infos,
        pictures=[frame for of_source in frames if isinstance(of_source, list) for frame in of_source],
    )
    writers = {name: RESULTS[name].open(run) for name in chosen}
    detecting = _Detecting(detector, run, tiling, viewer, workers, on_progress)
    is_complete, is_through = False, False
    # A signal is answered between two frames: torn out of a queue's or a future's own code, it may leave a lock locked
    # that the writers wait for.
    with held():
        try:
            for source, of_source in zip(sources, frames, strict=True):
                kind = source.info.kind
                if not detecting.is_stopped:
                    tracker = Tracker(float(source.info.rate) if source.info.rate else None) if track else None
                    to = [writers[name] for name, of in chosen.items() if kind in of]
                    detecting.run(source, of_source, to, tracker)
            is_through = True
            is_complete = not detecting.is_stopped and all(source.is_whole for source in sources)
        finally:
            results = detecting.behind.close(writers, Ending(is_complete=is_complete, errors=detecting.errors))
            if results and not is_through:
                _log.warning("broken off; what was found up to then is in %s", out_dir)
    done = detecting.sources()
    is_nothing = done and not any(source.detections for source in done)
    return Detected(
        results=results,
        pictures=detecting.pictures(),
        sources=done,
        kept=run.keeping,
        unwritten=len(detecting.unwritten),
        errors=tuple(detecting.errors),
        unsaid=tuple(detecting.unsaid),
        hint=nothing_found(detecting.highest, run.keeping) if is_nothing else "",
    )


def check_request(
    sources: Sequence[SourceInfo], out_dir: Path, *, save: Sequence[str] | None, track: bool
) -> dict[str, tuple[SourceKind, ...]]:
    """Return each kind of result with the kinds of sources it is made of, before a model is opened.

    Args:
        sources, out_dir, save, track: as `detect_sources`.

    Raises:
        SSDDeployError: they do not fit together.
        BackendError: a package is missing.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise SSDDeployError(f"{out_dir}: is a file; name a folder for the results", arguments=("out",))
    if track:
        check_installed()
        if any(info.kind == "pictures" for info in sources):
            raise SSDDeployError(
                "pictures have no order in time to track objects in; track in a video or a stream", arguments=("track",)
            )
    return choose(save, sources)


class _Detecting:
    """One run over sources, and what has come of it so far."""

    def __init__(
        self,
        detector: Detector,
        run: Run,
        tiling: Tiling | None,
        viewer: Viewer | None,
        workers: int,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self._detector, self._run, self._tiling = detector, run, tiling
        self._viewer, self._workers, self._on_progress = viewer, workers, on_progress
        self._done, self._network_s = 0, 0.0
        self._pictures: list[tuple[Frame, int, Sequence[Writer]]] = []
        self._sources: list[tuple[SourceInfo, DetectedSource, Sequence[Writer]]] = []
        self.errors: list[str] = []
        self.unsaid: list[str] = []
        self.highest: float | None = None
        self.is_stopped = False
        self.unwritten: set[tuple[Writer, Frame]] = set()
        self.behind = WriteBehind(
            workers=workers, depth=detector.batch_size + workers, on_unwritten=self._note_unwritten
        )

    def run(self, source: Source, frames: Iterable[Frame], writers: Sequence[Writer], tracker: Tracker | None) -> None:
        """Detect in a source until its end, or until the viewer has seen enough."""
        info = source.info
        is_picture = info.kind == "pictures"
        source.on_problem = self._note if is_picture else self._say
        start, count, detections, self._network_s = time.perf_counter(), 0, 0, 0.0
        # A wait for a camera or for whoever looks on may never end.
        may_wait = info.kind == "live" or self._viewer is not None
        try:
            with contextlib.closing(self._found(source, frames)) as found, let_through(may_wait):
                for each in found:
                    raise_noted()
                    outcome = self._outcome(each, tracker)
                    self.behind.add(outcome, tuple(writers))
                    count, detections = count + 1, detections + len(outcome.detections)
                    if is_picture:
                        self._pictures.append((each.item, len(outcome.detections), writers))
                    if self._viewer and not self._viewer.show(outcome.drawn(), each.item.name, waits=is_picture):
                        self.is_stopped = True
                        break
        except KeyboardInterrupt:
            # The only end that a camera has; for anything else the run is broken off.
            if info.kind != "live" or info is not self._run.sources[-1]:
                raise
        # Where nothing was lost, what the container states says nothing: an edit list may hide frames.
        self.behind.end_source(info, info.frames if source.is_whole and source.problems else None, tuple(writers))
        self._done += count
        done = DetectedSource(
            name=info.name,
            kind=info.kind,
            frames=count,
            detections=detections,
            problems=source.problems,
            dropped=source.dropped,
            is_whole=source.is_whole,
            seconds=time.perf_counter() - start,
            network_s=self._network_s,
            video=None,
        )
        self._sources.append((info, done, writers))

    def pictures(self) -> tuple[DetectedPicture, ...]:
        """Return what came of each picture, once everything is written."""
        return tuple(
            DetectedPicture(
                path=_first(
                    writer.path_of_picture(frame) for writer in writers if (writer, frame) not in self.unwritten
                )
                or frame.path
                or Path(frame.name),
                count=count,
            )
            for frame, count, writers in self._pictures
        )

    def sources(self) -> tuple[DetectedSource, ...]:
        """Return what came of each source that was begun, once everything is written."""
        unwritten = {(writer, frame.source) for writer, frame in self.unwritten}
        return tuple(
            dataclasses.replace(
                done,
                video=_first(writer.path_of_video(info) for writer in writers if (writer, info) not in unwritten)
                if done.frames
                else None,
            )
            for info, done, writers in self._sources
        )

    def _found(self, source: Source, frames: Iterable[Frame]) -> Generator[Found[Frame], None, None]:
        def progress(done: int) -> None:
            if self._on_progress is not None:
                self._on_progress(self._done + done)

        return detect_source(
            self._detector,
            source,
            frames,
            run=self._timed_network,
            # Whoever looks on does not wait for a batch.
            batch_size=None if self._viewer is None else 1,
            workers=self._workers,
            tiling=self._tiling,
            on_progress=progress,
        )

    def _timed_network(self, images: Images) -> PaddedDetections:
        raise_noted()
        start = time.perf_counter()
        answer = self._detector.runner.run(images)
        self._network_s += time.perf_counter() - start
        return answer

    def _outcome(self, each: Found[Frame], tracker: Tracker | None) -> Outcome:
        found = each.detections.clipped((each.image.shape[0], each.image.shape[1]))
        if len(found):
            self.highest = max(self.highest or 0.0, float(found.scores.max()))
        rows = self._run.keeping.rows(found)
        return Outcome(each.item, each.image, tracker.update(found, rows) if tracker else found.select(rows))

    def _note_unwritten(self, outcome: Outcome, writer: Writer, error: ResultError) -> None:
        self.unwritten.add((writer, outcome.frame))
        (self._note if outcome.frame.source.kind == "pictures" else self._say)(str(error))

    def _note(self, sentence: str) -> None:
        self.errors.append(sentence)
        self.unsaid.append(sentence)

    def _say(self, sentence: str) -> None:
        """Say what went wrong in a video or a stream at once, since its end may be far."""
        _log.warning("%s", sentence)
        if len(self.errors) < MOST_PROBLEMS:
            self.errors.append(sentence)


def _first(paths: Iterable[Path | None]) -> Path | None:
    return next((path for path in paths if path is not None), None)
