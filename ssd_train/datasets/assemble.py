"""Annotations and a class list -> a data set: the one place where it is decided what becomes of objects."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ssd_train.datasets.annotations import AnnotatedImage, AnnotatedObject, Annotations
from ssd_train.datasets.class_names import ClassMatch, Spellings, match_classes
from ssd_train.datasets.dataset import Dataset, Sample, make_ground_truth
from ssd_train.datasets.findings import Findings


def make_dataset(
    annotations: Annotations,
    class_names: Sequence[str],
    *,
    name: str,
    training: bool,
    clips: bool,
    needs_match: bool,
    findings: Findings,
) -> Dataset:
    """Give every object its label, and leave out what cannot be used.

    Args:
        annotations: of one split.
        class_names: the detector's; objects of other classes are left out with a note.
        name: of the result.
        training: an image that is listed twice counts twice, where an evaluation refuses it; objects that are marked
            to be ignored are left out.
        clips: boxes are clipped to their image, and objects without area left out, in evaluation too; a training
            always does. The boxes as written stay in `GroundTruth.written_boxes`.
        needs_match: stop where there are objects, but none of a class that the detector knows.
        findings: told what is mended and left out.

    Raises:
        DatasetError: there are no images, one is listed twice in an evaluation, no object is of a class that the
            detector knows, or coordinates are no pixels.
    """
    images = _each_once(annotations.images, name, training, findings)
    if not images:
        findings.stop(f"{name}: there are no images in it; choose another split", place=name)
    _check_pixels(images, name, findings)
    spellings = _spellings(annotations)
    match = match_classes(spellings, class_names)
    _note_spellings(match, class_names, findings)
    label_counts: Counter[int] = Counter()
    samples = []
    for image in images:
        rows = []
        for each in image.objects:
            if training and each.is_ignored:
                continue
            row = _row(each, image, match, clips=clips or training, findings=findings)
            if row is not None:
                rows.append(row)
                label_counts[row["label"]] += 1
        samples.append(
            Sample(
                image_id=image.image_id,
                path=image.path,
                image_size=image.image_size,
                ground_truth=make_ground_truth(rows),
                has_lost_objects=len(rows) < sum(each.class_name in match.labels for each in image.objects),
            )
        )
    if needs_match:
        _check_classes(annotations, match, class_names, name, findings)
    if annotations.is_annotated:
        _note_empty_classes(annotations, match, class_names, label_counts, findings)
    categories = annotations.categories
    id_of_label = {
        label: spelling if categories is None else categories[spelling] for spelling, label in match.labels.items()
    }
    return Dataset(
        name=name,
        class_names=tuple(class_names),
        samples=tuple(samples),
        # A data set that numbers its classes has no number for those that it lacks; others are numbered from 1.
        category_ids=tuple(
            label + 1 if categories is None else id_of_label.get(label) for label in range(len(class_names))
        ),
        notes=findings.sentences(),
        is_annotated=annotations.is_annotated,
    )


def _each_once(
    images: Sequence[AnnotatedImage], name: str, training: bool, findings: Findings
) -> tuple[AnnotatedImage, ...]:
    """Return the images to use, of which an evaluation takes none twice."""
    counts = Counter(image.image_id for image in images)
    repeated = [image_id for image_id, count in counts.items() if count > 1]
    for image_id in repeated:
        if training:
            findings.add("listed-twice", str(image_id), counts[image_id])
        else:
            findings.stop(
                f"{name}: image {image_id} is listed twice, which would count it twice; name each image once",
                place=str(image_id),
            )
    return tuple(images) if training or not repeated else tuple({image.image_id: image for image in images}.values())


def _check_pixels(images: Sequence[AnnotatedImage], name: str, findings: Findings) -> None:
    """Stop where all coordinates are shares of the image, and note the images where those of a part are."""
    annotated = [image for image in images if image.objects]
    in_shares = [image for image in annotated if all(each.is_share for each in image.objects)]
    is_whole = all(number.is_integer() for image in in_shares for each in image.objects for number in each.box)
    if not in_shares or is_whole:
        return
    if len(in_shares) == len(annotated):
        findings.stop(
            f"{name}: the coordinates of all objects lie between 0 and 1 (the first in {in_shares[0].place}), so they "
            "are shares of the image, where pixels are expected; multiply them by the image's width and height",
            place=in_shares[0].place,
        )
    for image in in_shares:
        findings.add("scaled", image.place, len(image.objects))


def _spellings(annotations: Annotations) -> Spellings:
    if annotations.categories is not None:
        return Spellings.declared(annotations.categories)
    return Spellings.of_files([each.class_name for each in image.objects] for image in annotations.images)


def _note_spellings(match: ClassMatch, class_names: Sequence[str], findings: Findings) -> None:
    for rule, names in (("class-spelling", match.folded), ("class-alias", match.aliases)):
        for spelling in names:
            findings.add(rule, f"{spelling} as {class_names[match.labels[spelling]]}")


def _row(
    each: AnnotatedObject, image: AnnotatedImage, match: ClassMatch, *, clips: bool, findings: Findings
) -> dict[str, Any] | None:
    """Return an object as `make_ground_truth` takes it; None leaves it out."""
    label = match.labels.get(each.class_name)
    if label is None:
        findings.add("other-class", each.class_name)
        return None
    box = each.box
    if clips:
        height, width = image.image_size
        if box[2] <= box[0] or box[3] <= box[1]:
            findings.add("no-area", image.place)
            return None
        box = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height)))
        if box[2] <= box[0] or box[3] <= box[1]:
            findings.add("outside", image.place)
            return None
        if box != each.box:
            findings.add("clipped", image.place)
    return {
        "box": box,
        "written_box": each.box,
        "label": label,
        "is_difficult": each.is_difficult,
        "is_crowd": each.is_crowd,
        "area": (box[2] - box[0]) * (box[3] - box[1]) if each.area is None else each.area,
    }


def _check_classes(
    annotations: Annotations, match: ClassMatch, class_names: Sequence[str], name: str, findings: Findings
) -> None:
    """Stop where there are objects, but the detector knows none of their classes, nor others that are declared."""
    theirs = list(dict.fromkeys(each.class_name for image in annotations.images for each in image.objects))
    if theirs and not match.labels:
        findings.stop(
            f"{name}: its objects are of {_some(theirs)}, and the detector knows {_some(class_names)}; evaluate a "
            "detector of this data set, or give the data set's own class list",
            place=name,
            arguments=("classes",),
        )


def _note_empty_classes(
    annotations: Annotations,
    match: ClassMatch,
    class_names: Sequence[str],
    label_counts: Counter[int],
    findings: Findings,
) -> None:
    known = set(match.labels.values())
    for label, class_name in enumerate(class_names):
        if annotations.categories is not None and label not in known:
            findings.add("class-missing", class_name)
        elif not label_counts[label]:
            findings.add("class-without-objects", class_name)
    used = {each.class_name for image in annotations.images for each in image.objects}
    for category in annotations.categories or ():
        if category not in match.labels and category not in used:
            findings.add("class-without-objects", category)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def class_names_of(annotations: Annotations) -> tuple[str, ...]:
    """Return the classes of a data set of one's own: those it declares in the order of their ids, else by alphabet."""
    if annotations.categories is not None:
        return tuple(annotations.categories)
    return _spellings(annotations).classes()
