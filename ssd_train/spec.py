"""What a detector expects and what its numbers mean: the contract that travels with the weights.

The same description is held by the PyTorch network, written into the ONNX file and read back by
every runner, so that no backend carries a mean, a threshold or a class list of its own.
"""

import dataclasses
import json
import re
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ssd_train.errors import SpecError
from ssd_train.input_kinds import FLOAT, INPUT_KINDS, InputKind
from ssd_train.json_input import quoted, shown
from ssd_train.metadata import TextEntries
from ssd_train.options import check_ranges, option
from ssd_train.resize_rules import RESIZE_RULES, ResizeRule, rule_of

# ImageNet statistics in RGB order, for values in [0, 1]; every GluonCV SSD uses them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

GLUONCV_RESIZE = RESIZE_RULES["gluoncv"].text

# Names in an exported file. The raw predictions are inner values, there for parity checks. A file of 8-bit pixels has
# another input (see `INPUT_KINDS`), and makes this of it.
INPUT_NAME = INPUT_KINDS[FLOAT].tensor
OUTPUT_NAMES = ("boxes", "scores", "labels")
RAW_NAMES = ("cls_logits", "box_offsets")

# Past any network, and so far that a batch of one image still fits a memory.
MAX_INPUT_SIDE = 2**14

# Past any memory, and what a reader may be told to fill up to.
MOST_FIXED_BATCH = 1024

# What a file gives: detections, or the raw predictions that they are decoded from.
DETECTIONS, RAW = "detections", "raw"

# With these a normalised pixel stays far inside float32.
MOST_STATISTIC, LEAST_STD = 1e3, 1e-6

# Letters of a class name: a sentence, where the longest of COCO has fourteen.
MAX_NAME = 1000

# Control characters, halves of surrogate pairs, and what ends a line: nothing that is drawn or written on one.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Network and precision are parts of file names.
_FILE_NAME = re.compile("[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff/\\\\]{1,100}")
_FAR = 1e300

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
        clip_boxes: boxes are clipped to the input before NMS, as torchvision does.

    Raises:
        SpecError: a value outside its range.
    """

    score_threshold: float = option(
        0.01, "Candidates need a score above it; usually 0.01.", names=("--score-threshold",), least=0, below=1
    )
    nms_iou_threshold: float = option(
        0.45, "NMS suppresses above this overlap; usually 0.45.", names=("--nms-iou",), above=0, below=1
    )
    pre_nms_top_k: int = option(400, "Candidates an image that enter NMS; usually 400.", least=1, most=MAX_TOP_K)
    max_detections: int = option(100, "Detections kept an image; usually 100.", least=1, most=MAX_TOP_K)
    clip_boxes: bool = option(False, "Clip boxes to the input before NMS, as torchvision does.")

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
        object.__setattr__(self, "found_by", _valid(self.found_by))
        for name, value in {"overall": self.overall, **self.per_class}.items():
            if not _is_number(value) or not 0 <= value <= 1:
                raise SpecError(f"the working threshold {quoted(value)} ({quoted(name)}) is not in 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """Everything a runner needs beside the weights.

    Attributes:
        network: configuration name, for example `ssd_512_resnet50_v1_coco`.
        class_names: one name a label, in label order; no background.
        input_size: network input (height, width) in pixels.
        mean, std: per-channel RGB statistics for values in [0, 1].
        resize: text of the row of `RESIZE_RULES` that pictures are resized by.
        postprocess: thresholds that the detector applies itself.
        precision: what the network computes in, for example `fp32`.
        weights: where the weights came from: a file name, or `random, seed 0`.
        weights_sha256: SHA-256 of that file, or of the tensors where there is no file.
        versions: package versions that made the artifact.
        working_thresholds: None where none were saved.
        input_kind: row of `INPUT_KINDS` that the detector takes.
        batch_size: the only number of images that a call takes; None for any.
        outputs: `detections`, or `raw` for a file whose detections somebody else decodes.
        adopted_from: the program that wrote the file whose graph this is, where it is somebody else's; empty for a
            network of this project.

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
    input_kind: str = FLOAT
    batch_size: int | None = None
    outputs: str = DETECTIONS
    adopted_from: str = ""

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        for name, text in (("network", self.network), ("precision", self.precision)):
            if not isinstance(text, str) or not _FILE_NAME.fullmatch(text):
                raise SpecError(f"{name} {quoted(text)} is no name that a file could have")
        if len(self.input_size) != 2 or not all(_is_count(side, MAX_INPUT_SIDE) for side in self.input_size):
            raise SpecError(f"input size {quoted(self.input_size)} is not (height, width) in pixels")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(_is_number(value) for value in values):
                raise SpecError(f"{name} {quoted(values)} is not three finite numbers")
        if max(map(abs, (*self.mean, *self.std))) > MOST_STATISTIC or min(self.std) < LEAST_STD:
            raise SpecError(
                f"mean {self.mean} or std {self.std} is out of range for values in [0, 1]; std has to be {LEAST_STD:g} "
                f"or more, and all at most {MOST_STATISTIC:g}"
            )
        if rule_of(self.resize) is None:
            known = " and ".join(quoted(rule.text) for rule in RESIZE_RULES.values())
            raise SpecError(f"resize rule {quoted(self.resize)} is not known; this version knows {known}")
        if not re.fullmatch(r"|[0-9a-f]{64}", self.weights_sha256):
            raise SpecError(f"weights_sha256 {quoted(self.weights_sha256)} is no SHA-256")
        if self.input_kind not in INPUT_KINDS:
            raise SpecError(f"input_kind {quoted(self.input_kind)} is not {' or '.join(INPUT_KINDS)}")
        if self.input.is_8_bit and self.resize_rule.on_floats:
            raise SpecError(
                f"input_kind {self.input_kind} does not fit resize rule {quoted(self.resize)}, which makes no 8-bit "
                f"picture; use {FLOAT}"
            )
        if self.batch_size is not None and not _is_count(self.batch_size, MOST_FIXED_BATCH):
            raise SpecError(f"batch_size {quoted(self.batch_size)} is no number from 1 to {MOST_FIXED_BATCH}")
        if self.outputs not in (DETECTIONS, RAW):
            raise SpecError(f"outputs {quoted(self.outputs)} are not {DETECTIONS} or {RAW}")
        for name in ("weights", "adopted_from"):
            object.__setattr__(self, name, _valid(getattr(self, name)))
        for text in (*self.versions, *self.versions.values()):
            if _valid(text) != text:
                raise SpecError(f"versions have {quoted(text)}, which is no text")
        per_class = self.working_thresholds.per_class if self.working_thresholds else {}
        unknown = sorted(per_class.keys() - {*self.class_names})
        if unknown:
            raise SpecError(f"there are working thresholds for {quoted_names(unknown)}, which are no classes")

    @property
    def input(self) -> InputKind:
        """What the detector takes."""
        return INPUT_KINDS[self.input_kind]

    @property
    def resize_rule(self) -> ResizeRule:
        """How pictures are resized."""
        rule = rule_of(self.resize)
        assert rule is not None  # checked when this was made
        return rule

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image as the detector takes it."""
        return self.input.image_shape(self.input_size)

    @property
    def file_stem(self) -> str:
        """What names of files say of a detector: network, precision, and what is unusual of input and outputs."""
        unusual = (
            self.input_kind if self.input_kind != FLOAT else "",
            self.outputs if self.outputs != DETECTIONS else "",
            f"batch{self.batch_size}" if self.batch_size is not None else "",
        )
        return ".".join((self.network, self.precision, *filter(None, unusual)))

    def to_metadata(self) -> dict[str, str]:
        """Return flat text entries: plain text stays as it is, everything else is JSON."""
        flat = without_usual(dataclasses.asdict(self))
        flat |= flat.pop("postprocess")
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
        read = TextEntries(entries=metadata, source=source)
        try:
            settings = PostprocessSettings(
                **{key: read.value(key, kind) for key, kind in _POSTPROCESS.items() if key in read or key not in _USUAL}
            )
            values: dict[str, Any] = {key: read.value(key, kind) for key, kind in _JSON_ENTRIES.items()}
            values |= {key: read.text(key) for key in _TEXT_ENTRIES}
            values |= {key: read.text(key) for key in ("input_kind", "outputs", "adopted_from") if key in read}
            values |= {key: read.value(key, kind) for key, kind in _OPTIONAL_JSON.items() if key in read}
            return cls(postprocess=settings, **values)
        except SpecError as error:
            raise read.unusable(str(error)) from error


# Entries of metadata; those of JSON with their types.
_TEXT_ENTRIES = ("network", "resize", "precision", "weights", "weights_sha256")
_JSON_ENTRIES = {
    "class_names": tuple[str, ...],
    "input_size": tuple[int, int],
    "mean": tuple[float, float, float],
    "std": tuple[float, float, float],
    "versions": dict[str, str],
}
_OPTIONAL_JSON = {"working_thresholds": WorkingThresholds, "batch_size": int}
_POSTPROCESS = typing.get_type_hints(PostprocessSettings)

# What a description leaves out where it is as usual, so that it reads as it did before there was a choice.
_USUAL = {
    "working_thresholds": None,
    "input_kind": FLOAT,
    "batch_size": None,
    "outputs": DETECTIONS,
    "adopted_from": "",
    "clip_boxes": False,
}


def without_usual(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description's plain values without those that are as usual and that files do not write then."""
    return {
        key: without_usual(value) if key == "postprocess" else value
        for key, value in plain.items()
        if key not in _USUAL or value != _USUAL[key]
    }


def check_class_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the class list; raise SpecError where it is empty, or has a name that is none or repeated."""
    if not class_names:
        raise SpecError("the class list is empty; name at least one class")
    for name in class_names:
        if fault := name_fault(name):
            raise SpecError(f"the class list has {fault}")
    if len(set(class_names)) < len(class_names):
        repeated = sorted(name for name, count in Counter(class_names).items() if count > 1)
        raise SpecError(f"the class list repeats {quoted_names(repeated)}")
    return class_names


def name_fault(name: object) -> str:
    """Say what is wrong with the name of a class, in words such as `an empty name`; empty where nothing is."""
    if not isinstance(name, str):
        return f"{quoted(name)}, which is no text"
    if not name.strip():
        return "an empty name"
    if len(name) > MAX_NAME:
        return f"a name of {len(name)} letters ({quoted(name, 40)}), where {MAX_NAME} are the most"
    if _UNPRINTABLE.search(name):
        return f"the name {quoted(name)}, which holds a control character or half a character"
    return ""


def _valid(text: str) -> str:
    """Return text that UTF-8 can hold: names of files and folders, of which it is made, may be any bytes."""
    return text.encode(errors="backslashreplace").decode()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_FAR < value < _FAR


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def quoted_names(class_names: Sequence[str]) -> str:
    """Return the first ten names of a list from outside, escaped where they have to be, with dots for the rest."""
    return first_names([shown(name, 80) for name in class_names[:11]])


def first_names(class_names: Sequence[str]) -> str:
    """Return the first ten classes of a list for an error's sentence, with dots for the rest."""
    return ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
