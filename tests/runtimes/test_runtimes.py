"""One exported file means the same in every runtime that is named in docs/runtimes.md."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from runtimes import DETECTING, REFERENCE, RUNTIMES, Answers, Outputs

from ssd_deploy.parity.pairs import count_changes
from ssd_train.detections import Detections

# Pixels and score. Sums in another order change raw predictions of this detector by up to 3e-5, which is 1e-5 of a
# score at most, and through a variance of 0.1 and an anchor of 300 pixels 1e-3 of a pixel. A value in half precision
# that is rounded the other way is off by 5e-4 of itself.
TOLERANCES = {"fp32": (1e-3, 1e-5), "fp16": (0.1, 2e-3)}

# Single detections of an int8 file hang on where a runtime rounds, and those are few here.
SCORE_THRESHOLD = 0.5
INT8_CHANGED = 0.1

PAIRS = [
    (runtime, file) for runtime, row in RUNTIMES.items() if runtime != REFERENCE for file in row.files or DETECTING
]


@pytest.mark.parametrize(("runtime", "file"), PAIRS)
def test_a_runtime_finds_what_the_newest_onnx_runtime_finds(
    answers: Callable[[str], Answers], runtime: str, file: str
) -> None:
    expected, got = answers(REFERENCE).by_file[file], answers(runtime).by_file[file]
    assert not isinstance(expected, str), expected
    fault = RUNTIMES[runtime].faults.get(file)
    problem = got if isinstance(got, str) else differs(file, expected, got)
    if fault is None:
        assert problem is None
    else:
        assert problem is not None, (
            f"{runtime} no longer has a fault with {file}, so docs/runtimes.md is wrong: {fault}"
        )


def differs(file: str, expected: Outputs, got: Outputs) -> str | None:
    """Say how outputs differ by more than the file's precision allows; None where they do not."""
    if {name: values.shape for name, values in expected.items()} != {name: v.shape for name, v in got.items()}:
        return f"outputs { ({name: values.shape for name, values in got.items()}) }"
    precision = file.split("-")[0]
    if precision == "int8":
        changes = count_changes(detections(expected), detections(got), SCORE_THRESHOLD)
        return changes.text() if changes.total < 8 or changes.share > INT8_CHANGED else None
    box_tolerance, score_tolerance = TOLERANCES[precision]
    near = np.abs(expected["boxes"][:, :, None] - got["boxes"][:, None]).max(axis=-1) <= box_tolerance
    near &= np.abs(expected["scores"][:, :, None] - got["scores"][:, None]) <= score_tolerance
    near &= expected["labels"][:, :, None] == got["labels"][:, None]
    alone = alone_in(near, expected["scores"]) + alone_in(near.transpose(0, 2, 1), got["scores"])
    return f"{alone} detections of the two sides have no partner" if alone else None


def alone_in(near: NDArray[np.bool_], scores: NDArray[np.float32]) -> int:
    """Count detections without a partner; padding has -1 everywhere, and is another's partner."""
    assert (scores > 0).any(), "nothing was found, so nothing is compared"
    return int((~near.any(axis=2)).sum())


def detections(outputs: Outputs) -> list[Detections]:
    return [
        Detections(boxes[labels >= 0], scores[labels >= 0], labels[labels >= 0])
        for boxes, scores, labels in zip(outputs["boxes"], outputs["scores"], outputs["labels"], strict=True)
    ]
