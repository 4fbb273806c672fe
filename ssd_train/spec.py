"""What a detector expects and what its numbers mean: the contract that travels with the weights.

The same description is held by the PyTorch network, written into the ONNX file and read back by
every runner, so that no backend carries a mean, a threshold or a class list of its own.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssd_train.errors import ModelError, SpecError
from ssd_train.options import check_ranges, option

# ImageNet statistics in RGB order, for values in [0, 1]; every GluonCV SSD uses them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The only resize rule there is; named in the metadata so that a file says which it was trained for.
GLUONCV_RESIZE = "opencv: cubic if both sides grow, area if both shrink, else linear"

# Names in an exported file. The raw predictions are inner values, there for parity checks.
INPUT_NAME = "images"
OUTPUT_NAMES = ("boxes", "scores", "labels")
RAW_NAMES = ("cls_logits", "box_offsets")

# TensorRT refuses a TopK with a larger K, so no exported graph may hold one.
MAX_TOP_K = 3840


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostprocessSettings:
    """Decode and NMS settings; the defaults are GluonCV's.

    Attributes:
        score_threshold: a candidate needs a softmax score strictly above it; in [0, 1).
        nms_iou_threshold: a box is suppressed by a better one of its class strictly above it; in (0, 1).
        pre_nms_top_k: candidates an image that enter NMS, over all classes; 1 to 3840 (TensorRT's limit).
        max_detections: detections kept an image; 1 to `pre_nms_top_k`.

    Raises:
        SpecError: a value outside its range.
    """

    score_threshold: float = option(
        0.01, "Candidates need a score above it.", names=("--score-threshold",), least=0, below=1
    )
    nms_iou_threshold: float = option(
        0.45, "NMS suppresses above this overlap.", names=("--nms-iou",), above=0, below=1
    )
    pre_nms_top_k: int = option(400, "Candidates an image that enter NMS.", least=1, most=MAX_TOP_K)
    max_detections: int = option(100, "Detections kept an image.", least=1, most=MAX_TOP_K)

    def __post_init__(self) -> None:
        check_ranges(self, SpecError)
        if self.max_detections > self.pre_nms_top_k:
            raise SpecError(
                f"max_detections {self.max_detections} is more than the {self.pre_nms_top_k} candidates that enter NMS",
                arguments=("max_detections", "pre_nms_top_k"),
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkingThresholds:
    """From which score on a detection counts when it is used, as `eval --save-thresholds` found it.

    They are no part of the graph: what scores less is found all the same, and left out afterwards.

    Attributes:
        overall: for all classes together, and for a class that `per_class` lacks; 0 to 1.
        per_class: class name -> its own.
        found_by: what was looked for and on which data, for people.

    Raises:
        SpecError: a value outside 0 to 1.
    """

    overall: float
    per_class: Mapping[str, float] = dataclasses.field(default_factory=dict)
    found_by: str = ""

    def __post_init__(self) -> None:
        for name, value in {"overall": self.overall, **self.per_class}.items():
            if not 0 <= value <= 1:
                raise SpecError(f"the working threshold {value} ({name}) is not in 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """Everything a runner needs beside the weights.

    Attributes:
        network: configuration name, for example `ssd_512_resnet50_v1_coco`.
        class_names: one name a label, in label order; no background.
        input_size: network input (height, width) in pixels.
        mean, std: per-channel RGB statistics for values in [0, 1].
        resize: the rule of `preprocess`, as text.
        postprocess: thresholds that the detector applies itself.
        precision: what the network computes in, for example `fp32`.
        weights: where the weights came from: a file name, or `random, seed 0`.
        weights_sha256: SHA-256 of that file, or of the tensors where there is no file.
        versions: package versions that made the artifact.
        working_thresholds: None where none were saved.

    Raises:
        SpecError: no classes, a repeated class name, or a size, mean or std that makes no sense.
    """

    network: str
    class_names: tuple[str, ...]
    input_size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: str = GLUONCV_RESIZE
    postprocess: PostprocessSettings = PostprocessSettings()
    precision: str = "fp32"
    weights: str = ""
    weights_sha256: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    working_thresholds: WorkingThresholds | None = None

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise SpecError(f"input size {self.input_size} is not (height, width) in pixels")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise SpecError(f"{name} {values} is not three finite numbers")
        if min(self.std) <= 0:
            raise SpecError(f"std {self.std} has a value that is not above 0")
        if self.resize != GLUONCV_RESIZE:
            raise SpecError(f"resize rule {self.resize!r} is not known; this version knows {GLUONCV_RESIZE!r}")
        unknown = sorted(
            set(self.working_thresholds.per_class if self.working_thresholds else ()) - {*self.class_names}
        )
        if unknown:
            raise SpecError(f"there are working thresholds for {', '.join(unknown)}, which are no classes")

    def to_metadata(self) -> dict[str, str]:
        """Return flat text entries: plain text stays as it is, everything else is JSON."""
        flat = dataclasses.asdict(self)
        flat |= flat.pop("postprocess")
        if self.working_thresholds is None:
            del flat["working_thresholds"]
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> "DetectorSpec":
        """Read back what `to_metadata` wrote; entries that are not part of the description are ignored.

        Args:
            metadata: the text entries of a model file.
            source: what to call that file in an error.

        Raises:
            ModelError: an entry is missing or unreadable, so the file was not exported by this project.
        """
        try:
            settings = PostprocessSettings(
                score_threshold=float(metadata["score_threshold"]),
                nms_iou_threshold=float(metadata["nms_iou_threshold"]),
                pre_nms_top_k=int(metadata["pre_nms_top_k"]),
                max_detections=int(metadata["max_detections"]),
            )
            values: dict[str, Any] = {
                key: tuple(json.loads(metadata[key])) for key in ("class_names", "input_size", "mean", "std")
            }
            for key in ("network", "resize", "precision", "weights", "weights_sha256"):
                values[key] = metadata[key]
            if "working_thresholds" in metadata:
                values["working_thresholds"] = WorkingThresholds(**json.loads(metadata["working_thresholds"]))
            return cls(postprocess=settings, versions=json.loads(metadata["versions"]), **values)
        except KeyError as error:
            raise ModelError(
                f"{source}: its metadata has no entry {error.args[0]!r}; "
                "export the model again with `ssd-deploy export`"
            ) from error
        except (TypeError, ValueError, SpecError) as error:
            raise ModelError(
                f"{source}: its metadata cannot be used ({error}); export the model again with `ssd-deploy export`"
            ) from error


def check_class_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the class list; raise SpecError where it is empty or has an empty or repeated name."""
    if not class_names:
        raise SpecError("the class list is empty; name at least one class")
    if not all(isinstance(name, str) and name.strip() for name in class_names):
        raise SpecError("the class list has an empty name")
    repeated = sorted({name for name in class_names if class_names.count(name) > 1})
    if repeated:
        raise SpecError(f"the class list repeats {', '.join(repeated)}")
    return class_names


def first_names(class_names: Sequence[str]) -> str:
    """Return the first ten classes of a list for an error's sentence, with dots for the rest."""
    return ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
