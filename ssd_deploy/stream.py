"""A source of frames -> detections frame by frame, with bounded memory.

Three things run beside each other: a thread of the source decodes, threads of the loop turn frames into pictures and
pre-process them, and the network runs.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Protocol

from ssd_deploy.backends.base import Runner
from ssd_deploy.sources.base import Reconnect, Source
from ssd_deploy.sources.frame import Frame
from ssd_deploy.sources.open import Named, open_sources
from ssd_deploy.tiles import detect_tiled
from ssd_deploy.tiling import Tiling
from ssd_train.detections import Detections
from ssd_train.errors import BackendError
from ssd_train.evaluation.loop import Found, Predict
from ssd_train.thresholds import Keeping


class Detecting(Protocol):
    """What a stream needs of a detector."""

    runner: Runner
    batch_size: int


def stream(
    detector: Detecting,
    source: Source | Named | Sequence[Named],
    keeping: Keeping,
    *,
    run: Predict | None = None,
    batch_size: int | None = None,
    reconnect: Reconnect | None = None,
    drop_late: bool | None = None,
    max_pixels: int | None = None,
) -> Generator[tuple[Frame, Detections], None, None]:
    """Yield every frame of a source with what was found in it; see `Detector.stream`.

    Sources of a list come one after the other. Whatever ends the generator, all sources are closed and their threads
    have ended by then.

    Args:
        keeping: which detections are given out.
        run: runs a batch; None for the runner's own.
    """
    if isinstance(source, Source):
        sources = [source]
    else:
        several = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
        sources = open_sources(several, reconnect=reconnect, drop_late=drop_late, max_pixels=max_pixels)
    with contextlib.ExitStack() as opened:
        for each in sources:
            opened.enter_context(each)
        for each in sources:
            with (
                contextlib.closing(each.frames()) as frames,
                contextlib.closing(detect_source(detector, each, frames, run=run, batch_size=batch_size)) as found,
            ):
                for of_frame in found:
                    frame = of_frame.item
                    # A plain frame: what it was decoded from is not kept with it.
                    plain = Frame(
                        index=frame.index,
                        name=frame.name,
                        image=of_frame.image,
                        path=frame.path,
                        time_s=frame.time_s,
                        source=frame.source,
                    )
                    yield plain, keeping.apply(of_frame.detections)
            each.close()


def detect_source(
    detector: Detecting,
    source: Source,
    frames: Iterable[Frame],
    *,
    run: Predict | None = None,
    batch_size: int | None = None,
    workers: int = 2,
    tiling: Tiling | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[Found[Frame], None, None]:
    """Yield every frame of one open source with its picture and all that the detector found there.

    A picture that cannot be read is told to the source's `on_problem` and left out. The source is not closed.

    Args:
        frames: the source's.
        run: runs a batch; None for the runner's own.
        batch_size: images a call of the backend, at most its own limit; None for the detector's own, and for 1 where
            frames come live: each is then detected in as soon as it is there.
        workers: threads that make pictures of frames and pre-process them, at least 1.
        tiling: cuts large pictures; None for none.
        on_progress: called with the number of frames done so far.

    Raises:
        BackendError: a batch size below 1; the backend answered with something that is no detections.
        ImageError, SourceError: as the source.
    """
    is_live = source.info.kind == "live"
    wanted = batch_size if batch_size is not None else 1 if is_live else detector.batch_size
    if wanted < 1:
        raise BackendError(f"a batch size of {wanted} is not possible; use 1 or more", arguments=("batch_size",))
    runner = detector.runner
    return detect_tiled(
        frames,
        source.load,
        run or runner.run,
        runner.spec,
        tiling=tiling or Tiling(),
        name_of=lambda frame: frame.name,
        batch_size=min(wanted, runner.max_batch_size or wanted),
        # Each further thread would hold one more frame back, and make it older.
        workers=1 if is_live else workers,
        keep_images=True,
        # A file is always about to give the next frame, and is waited for, so that whole batches load ahead.
        is_ready=source.is_ready if is_live else lambda: True,
        on_failed=lambda _, error: source.report(str(error)),
        on_progress=on_progress,
    )
