"""Working thresholds are kept with the detector that they were found for, so that it is used with them from then on."""

import dataclasses
import json
from pathlib import Path

from ssd_deploy.model_source import ModelSource
from ssd_train.errors import WeightsError
from ssd_train.files import check_writable
from ssd_train.spec import WorkingThresholds
from ssd_train.weights.load import SHAPES, stored_weights


def thresholds_place(source: ModelSource) -> Path:
    """Return the file that a detector's thresholds go to: an exported file, or the JSON beside an engine or weights.

    Raises:
        WeightsError: the weights are no file of the user's own.
        SSDDeployError: the place cannot be written.
    """
    if source.address is not None:
        raise WeightsError(f"{source.name}: is served, and its thresholds are the server's; name the file that it has")
    if source.file is not None:
        from export.engine.file import info_path, is_engine

        place = info_path(source.file) if is_engine(source.file) else source.file
    else:
        from ssd_train.weights.thresholds_file import thresholds_path

        place = thresholds_path(_weight_file(source))
    check_writable(place)
    return place


def keep_thresholds(source: ModelSource, thresholds: WorkingThresholds) -> Path:
    """Keep thresholds with a detector; returns the file that was written. Nothing that it computes with changes.

    Raises:
        ModelError, SSDDeployError, WeightsError: as `thresholds_place`, or the file was damaged meanwhile.
    """
    place = thresholds_place(source)
    if source.file is None:
        from ssd_train.weights.thresholds_file import write_thresholds

        return write_thresholds(_weight_file(source), thresholds)
    if place != source.file:
        from export.engine.file import read_info, write_info

        info = read_info(source.file)
        spec = dataclasses.replace(info.spec, working_thresholds=thresholds)
        write_info(source.file, dataclasses.replace(info, spec=spec))
    else:
        from export.metadata_entry import write_entry

        write_entry(place, "working_thresholds", json.dumps(dataclasses.asdict(thresholds)))
    return place


def _weight_file(source: ModelSource) -> Path:
    """Return a network's weight file; raise WeightsError where there is none that thresholds could lie beside."""
    path = stored_weights(str(source.network), source.weights)
    if path is None or str(source.weights) == SHAPES:
        raise WeightsError(
            f"{source.name} with {source.weights} weights is no file of yours that thresholds could be kept with; make "
            "one with `ssd-deploy export` or `ssd-deploy convert`, and evaluate that",
            arguments=("save_thresholds",),
        )
    return path
