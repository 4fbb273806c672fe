"""Image files -> annotated pictures and one JSON file."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssd_deploy.detector import Detector
from ssd_train.detections import Detections
from ssd_train.draw import draw, write_picture
from ssd_train.errors import SSDDeployError
from ssd_train.evaluation.loop import detect_images
from ssd_train.files import write_json
from ssd_train.preprocess import load_image

logger = logging.getLogger(__name__)

RESULTS_NAME = "detections.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectedFiles:
    """What `detect_files` did.

    Attributes:
        json_path: the results of every image that could be read.
        pictures: annotated pictures, in the order of the images.
        counts: detections of at least the threshold in each.
        threshold: lowest score that was shown; the detector's own where that is higher than what was asked for.
        errors: one sentence for each image that could not be read.
    """

    json_path: Path
    pictures: tuple[Path, ...]
    counts: tuple[int, ...]
    threshold: float
    errors: tuple[str, ...]


def detect_files(
    detector: Detector,
    paths: Sequence[Path],
    out_dir: Path,
    *,
    threshold: float = 0.5,
    workers: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> DetectedFiles:
    """Detect in image files and write annotated pictures and `detections.json`.

    An image that cannot be read is reported and the others go on. Boxes in the JSON are xyxy in pixels
    of the (upright) image, clipped to it.

    Args:
        paths: image files.
        out_dir: made if missing; pictures of the same name are replaced, the inputs never.
        threshold: lowest score that is drawn and written, 0 to 1.
        workers: threads that load and pre-process, at least 1.
        on_progress: called after each batch with the number of images done so far.

    Raises:
        SSDDeployError: the folder cannot be written, or a picture would replace its own image; a
            threshold outside 0 to 1.
        BackendError: the backend answered with something that is no detections, such as NaN.
    """
    if not 0 <= threshold <= 1:
        raise SSDDeployError(f"a threshold of {threshold} is not in 0 to 1", arguments=("threshold",))
    lowest = detector.spec.postprocess.score_threshold
    if threshold < lowest:
        logger.warning(
            "the detector itself leaves out what scores below %g, so that is shown instead of %g", lowest, threshold
        )
    threshold = max(threshold, lowest)
    if out_dir.exists() and not out_dir.is_dir():
        raise SSDDeployError(f"{out_dir}: is a file; name a folder for the results", arguments=("out",))
    targets = _targets(paths, out_dir)
    results: list[dict[str, Any]] = []
    pictures: list[Path] = []
    counts: list[int] = []
    errors: list[str] = []
    is_complete = False
    json_path = out_dir / RESULTS_NAME
    try:
        found_images = detect_images(
            list(zip(paths, targets, strict=True)),
            lambda item: load_image(item[0]),
            detector.runner.run,
            detector.spec,
            name_of=lambda item: item[0].name,
            batch_size=detector.batch_size,
            workers=workers,
            keep_images=True,
            on_failed=lambda _, error: errors.append(str(error)),
            on_progress=on_progress,
        )
        with contextlib.closing(found_images):
            for found in found_images:
                (path, target), image_size = found.item, found.image.shape[:2]
                shown = found.detections.clipped(image_size)
                shown = shown.select(shown.scores >= threshold)
                write_picture(target, draw(found.image, shown, detector.spec.class_names))
                results.append(_result(path, image_size, shown, detector.spec.class_names))
                pictures.append(target)
                counts.append(len(shown))
        is_complete = True
    finally:
        # Whatever ends the run, what was found up to then stands beside its pictures; a run that ended
        # before its first picture leaves the results of an earlier one alone.
        if is_complete or results:
            content = {
                "backend": detector.runner.name,
                "detector": dataclasses.asdict(detector.spec),
                "threshold": threshold,
                "is_complete": is_complete,
                "images": results,
                "errors": errors,
            }
            write_json(json_path, content)
    return DetectedFiles(
        json_path=json_path,
        pictures=tuple(pictures),
        counts=tuple(counts),
        threshold=threshold,
        errors=tuple(errors),
    )


def _targets(paths: Sequence[Path], out_dir: Path) -> list[Path]:
    """Name a picture for each image: its own name, numbered where folders share one."""
    inputs = {path.resolve() for path in paths}
    taken: set[str] = set()
    targets = []
    for path in paths:
        suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg", ".png") else ".png"
        name, number = f"{path.stem}{suffix}", 2
        while name in taken:
            name, number = f"{path.stem}-{number}{suffix}", number + 1
        taken.add(name)
        target = out_dir / name
        if target.resolve() in inputs:
            raise SSDDeployError(
                f"{target}: the annotated picture would replace an image; choose another folder", arguments=("out",)
            )
        targets.append(target)
    return targets


def _result(path: Path, image_size: tuple[int, int], found: Detections, class_names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "file": str(path),
        "height": image_size[0],
        "width": image_size[1],
        "detections": [
            {"box": box, "score": score, "label": label, "class_name": class_names[label]}
            for box, score, label in zip(
                found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
            )
        ],
    }
