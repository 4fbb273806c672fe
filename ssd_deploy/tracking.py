"""Objects followed through a video: the same number for the same object in every frame.

The tracker is ByteTrack (Zhang et al., 2022) as Roboflow's `trackers` has it. It knows no classes: a detection keeps
its own label, so that an object which the detector calls cat in one frame and dog in the next keeps its number.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ssd_train.detections import Detections
from ssd_train.requirements import require

# Detections of lower scores, down to this one, keep a track alive while its object is hardly seen, and are not given
# out (ByteTrack, section 3.1; the authors' code has the same 0.1).
LOWEST_SCORE = 0.1

# What the tracker is told instead of scores: it has one threshold, and there may be one for each class.
_SEEN, _HARDLY_SEEN = 1.0, 0.2
_BETWEEN = 0.5

# Of a source that does not tell its rate.
USUAL_RATE = 30.0


class Tracker:
    """Gives ids to the detections of one video's frames, which come in order.

    Args:
        rate: frames a second; an object that is not seen for a second is given up. None where it is not known.

    Raises:
        BackendError: the package is not installed.
    """

    def __init__(self, rate: float | None) -> None:
        check_installed()
        from trackers import ByteTrackTracker

        self._tracker = ByteTrackTracker(
            # In 30ths of a second, whatever the rate: the tracker scales it.
            lost_track_buffer=30,
            frame_rate=rate or USUAL_RATE,
            track_activation_threshold=_BETWEEN,
            high_conf_det_threshold=_BETWEEN,
            minimum_consecutive_frames=2,
        )

    def update(self, found: Detections, shown: NDArray[np.int64]) -> Detections:
        """Return what is shown of a frame's detections, with track ids.

        Args:
            found: of the next frame, all that the detector gave.
            shown: rows that are above the thresholds. Only they start a track.

        Returns:
            The shown rows in their order. An id is -1 in the first frame of an object: a track needs two.
        """
        import supervision

        is_shown = np.zeros(len(found), bool)
        is_shown[shown] = True
        rows = np.flatnonzero(is_shown | (found.scores >= LOWEST_SCORE))
        given = supervision.Detections(
            xyxy=found.boxes[rows].astype(np.float64),
            confidence=np.where(is_shown[rows], _SEEN, _HARDLY_SEEN),
            # The tracker answers in an order of its own.
            data={"row": rows},
        )
        answer = self._tracker.update(given)
        ids = np.full(len(found), -1, np.int64)
        if answer.tracker_id is not None and len(answer):
            # From 1, as the MOT benchmarks have them; the tracker counts from 0.
            ids[answer.data["row"]] = np.where(answer.tracker_id < 0, -1, answer.tracker_id + 1)
        return dataclasses.replace(found, track_ids=ids).select(shown)


def check_installed() -> None:
    """Raise BackendError where the package that tracks is not installed."""
    require("trackers", "track", "Tracking")
