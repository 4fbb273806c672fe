"""Model files of other frameworks that people have detectors in: told by first bytes or name, never read."""

import dataclasses
import re
from pathlib import Path

# What reads a detector of any framework, whatever its weights are stored in.
BY_ONNX = "export its raw outputs to ONNX and use `ssd-deploy adopt`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherFormat:
    """One kind of file.

    Attributes:
        name: for people, with its article.
        magic: bytes that it has, and where; none where it has none of its own.
        file_name: pattern of the names that it has, in lower case, where bytes do not tell.
        like_torch: it begins as a PyTorch checkpoint does, so that its name alone tells.
        advice: what to do with it, after "not supported; ".
    """

    name: str
    magic: tuple[int, bytes] | None = None
    file_name: str = r"(?!)"
    like_torch: bool = False
    advice: str = BY_ONNX

    def is_it(self, head: bytes, path: Path) -> bool:
        """Whether a file is of this kind; `head` are its first 16 bytes."""
        has_magic = self.magic is not None and head[self.magic[0] :].startswith(self.magic[1])
        return has_magic or re.fullmatch(self.file_name, path.name.lower()) is not None


# Bytes come first: a name may be anything.
OTHER_FORMATS = (
    OtherFormat(name="a TensorFlow Lite model", magic=(4, b"TFL3")),
    OtherFormat(name="an HDF5 file, as Keras writes weights", magic=(0, b"\x89HDF\r\n\x1a\n")),
    OtherFormat(name="a Keras model", file_name=r".*\.keras", like_torch=True),
    OtherFormat(name="a TensorFlow graph", file_name=r".*\.(pb|pbtxt)"),
    OtherFormat(
        name="a part of a TensorFlow checkpoint", file_name=r".*\.(ckpt.*\.meta|index|data-\d+-of-\d+)|checkpoint"
    ),
    OtherFormat(name="a Caffe model", file_name=r".*\.(caffemodel|prototxt)"),
    OtherFormat(name="a PaddlePaddle model", file_name=r".*\.(pdparams|pdmodel|pdiparams)", like_torch=True),
    OtherFormat(
        name="a Darknet file, which holds YOLO weights",
        file_name=r".*\.weights",
        advice="YOLO is no SSD, so `ssd-deploy adopt` cannot take it either",
    ),
)

# Package that a class in a pickle is of -> what the pickle is, and what to do with it.
_SAVE_THE_STATE = "save only the network's state_dict() with torch.save, or use safetensors"
_NO_SSD = "YOLO is no SSD and is not supported"
_PICKLED = {
    "ultralytics": ("an Ultralytics YOLO model", _NO_SSD),
    "models.yolo": ("a YOLOv5 or YOLOv7 model", _NO_SSD),
    "vision.ssd": ("a whole model of pytorch-ssd", _SAVE_THE_STATE),
    "torchvision.models": ("a whole torchvision model", _SAVE_THE_STATE),
    "mmdet": ("a whole MMDetection model", _SAVE_THE_STATE),
}


def other_format(head: bytes, path: Path) -> OtherFormat | None:
    """Return what kind of another framework's file this is; None where it is of none that is known."""
    return next((each for each in OTHER_FORMATS if each.is_it(head, path)), None)


def pickled_model(class_name: str) -> tuple[str, str]:
    """Return what a pickle with a class of this full name is, and what to do with it."""
    usual = ("a pickle of more than plain tensors", _SAVE_THE_STATE)
    return next((what for package, what in _PICKLED.items() if class_name.startswith(f"{package}.")), usual)
