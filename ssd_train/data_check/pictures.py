"""The pictures of a check, in one folder."""

import importlib.util
from pathlib import Path

from ssd_train.data_check.charts import write_box_chart, write_class_chart
from ssd_train.data_check.report import CheckReport
from ssd_train.data_check.sheet import write_sheet

SHEET_NAME = "samples.jpg"
CLASSES_NAME = "classes.png"
BOXES_NAME = "boxes.png"


def write_pictures(folder: Path, report: CheckReport) -> tuple[list[Path], str | None]:
    """Write sample pictures with boxes and, where matplotlib is installed, charts of classes and boxes.

    Returns:
        The files, and a sentence about what is left out; None where nothing is.
    """
    written = []
    samples = next((split.samples for split in report.splits if split.samples), ())
    if write_sheet(folder / SHEET_NAME, samples, report.class_names):
        written.append(folder / SHEET_NAME)
    if not len(report.objects.labels):
        return written, "there are no objects to draw charts of"
    if importlib.util.find_spec("matplotlib") is None:
        return written, "charts need matplotlib, which is not installed: pip install 'ssd-deploy[plots]'"
    for name, write in ((CLASSES_NAME, write_class_chart), (BOXES_NAME, write_box_chart)):
        write(folder / name, report)
        written.append(folder / name)
    return written, None
