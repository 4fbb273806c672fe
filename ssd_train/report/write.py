"""An evaluation -> a folder with one page, its data, its charts and the pictures that it links to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_train.files import write_json
from ssd_train.metrics.mistakes import KINDS
from ssd_train.report.charts import ClassCharts, write_confusion, write_overview
from ssd_train.report.evaluation import Evaluation
from ssd_train.report.page import DATA_NAME, PAGE_NAME, older_files, remove_older, write_page
from ssd_train.report.pictures import PICTURES_NAME, png_uri, write_linked
from ssd_train.report.tables import class_table, confusion_table, size_table
from ssd_train.report.worst import WorstPicture, worst_pictures

OVERVIEW_NAME, CONFUSION_NAME = "curves.png", "confusion.png"
# How many pictures of each kind of mistake.
PICTURES = 12
# Classes whose charts are open from the start; of more they would fill the page.
OPEN_CLASSES = 6


def write_report(folder: Path, evaluation: Evaluation, *, pictures: int = PICTURES) -> Path:
    """Write everything, the page last, and return its path.

    What an earlier report left in the folder and this one has not is removed.

    Args:
        folder: made where it is missing; call `page.check_report` before the work that comes before this.
        evaluation: what it shows.
        pictures: most of each kind of mistake.

    Raises:
        SSDDeployError: the folder cannot be written.
        ImageError, DatasetError: an image cannot be read any more.
    """
    of_kinds = (f"{PICTURES_NAME}/{kind.replace(' ', '_')}_[0-9][0-9].jpg" for kind in KINDS)
    older = older_files(folder, ["class_[0-9][0-9][0-9].png", *of_kinds])
    charts = [folder / OVERVIEW_NAME, folder / CONFUSION_NAME]
    write_overview(charts[0], evaluation)
    write_confusion(charts[1], evaluation)
    class_charts = list(_write_class_charts(folder, evaluation))
    worst = {kind: list(_write_pictures(folder, evaluation, kind, pictures)) for kind in KINDS}
    counts = evaluation.kinds_of()
    kept = {path.name for path in (*charts, *(each["path"] for each in class_charts))}
    kept |= {Path(each["href"]).name for of_kind in worst.values() for each in of_kind}
    data = evaluation.to_dict()
    data["pictures"] = {
        kind: [{"file": each["href"], "image": each["image"], "mistakes": each["count"]} for each in of_kind]
        for kind, of_kind in worst.items()
    }
    write_json(folder / DATA_NAME, data)
    values = {
        "evaluation": evaluation,
        "report": evaluation.report,
        "overall": evaluation.overall,
        "overview": png_uri(charts[0]),
        "confusion": png_uri(charts[1]),
        "confusions": confusion_table(evaluation),
        "classes": class_table(evaluation),
        "sizes": size_table(evaluation),
        "metrics": [evaluation.report, *evaluation.other_reports],
        "unscored": evaluation.unscored,
        "class_charts": class_charts,
        "open_classes": len(class_charts) <= OPEN_CLASSES,
        # What was not found first, as people ask.
        "kinds": [(kind, KINDS[kind], counts[kind], worst[kind]) for kind in reversed(KINDS)],
    }
    write_page(folder / PAGE_NAME, "evaluation.html.j2", values)
    remove_older(older, kept)
    return folder / PAGE_NAME


def _write_class_charts(folder: Path, evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Write a chart of every class with objects or detections, named by its number: a class may have any name."""
    charts = ClassCharts()
    for label, (name, curve) in enumerate(evaluation.curves.per_class.items()):
        if curve.positives or len(curve.thresholds):
            path = folder / f"class_{label:03d}.png"
            charts.write(path, curve, evaluation.histograms[name], evaluation.points[name])
            yield {"name": name, "path": path, "uri": png_uri(path), "objects": curve.positives}


def _write_pictures(folder: Path, evaluation: Evaluation, kind: str, most: int) -> Iterator[dict[str, Any]]:
    for number, worst in enumerate(worst_pictures(evaluation, kind, most), start=1):
        href = f"{PICTURES_NAME}/{kind.replace(' ', '_')}_{number:02d}.jpg"
        yield {
            "href": href,
            "uri": write_linked(folder, href, worst.picture),
            "image": str(worst.sample.image_id),
            "count": len(worst.mistakes),
            "caption": _caption(worst, evaluation),
        }


def _caption(worst: WorstPicture, evaluation: Evaluation) -> str:
    """Say which image it is and what is wrong in it, the most certain first."""
    names, labels = evaluation.dataset.class_names, worst.sample.ground_truth.labels
    lines = []
    for mistake in worst.mistakes[:3]:
        text = names[mistake.label]
        if mistake.score is not None:
            text += f" {mistake.score:.2f}"
        if mistake.kind == "wrong class" and mistake.object is not None:
            text += f" on {names[labels[mistake.object]]}"
        if mistake.kind == "bad box":
            text += f" (IoU {mistake.iou:.2f})"
        lines.append(text)
    more = len(worst.mistakes) - len(lines)
    return f"{worst.sample.path.name}: {', '.join(lines)}" + (f" and {more} more" if more else "")
