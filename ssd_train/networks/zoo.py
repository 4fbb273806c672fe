"""The table of networks: one row a backbone, input size and data set. No torch needed to read it.

A new backbone is one file beside this one, one entry in `build.BACKBONES`, and one row here. Other input sizes are no
rows: `any_size` makes them of the rows when they are named.
Numbers are GluonCV's presets, but for the rows that say so (Liu et al., SSD, section 2.2 and 3.1 for the VGG rows).
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

from ssd_train.errors import NetworkError
from ssd_train.json_input import quoted
from ssd_train.networks.any_size import canonical_name, network_of_any_size
from ssd_train.networks.config import NetworkConfig, Project
from ssd_train.networks.jetson_sizes import at_resolution
from ssd_train.resize_rules import RESIZE_RULES
from ssd_train.spec import PostprocessSettings, check_class_names

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# Category ids of COCO that no object has; torchvision's networks have columns for them.
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def coco_ids_as_labels() -> tuple[str, ...]:
    """Return COCO's classes where category id 1 is label 0, with placeholders for ids that have none."""
    names = iter(COCO_CLASSES)
    ids = range(1, len(COCO_CLASSES) + len(COCO_GAPS) + 1)
    return tuple(f"N/A {number}" if number in COCO_GAPS else next(names) for number in ids)


# Aspect ratios of a level, the first being the square box: 4 and 6 anchors a cell.
R3 = (1.0, 2.0, 0.5)
R5 = (1.0, 2.0, 0.5, 3.0, 1.0 / 3.0)


Number = TypeVar("Number", int, float)


def squares(*sides: Number) -> tuple[tuple[Number, Number], ...]:
    """Return (side, side) for each side."""
    return tuple((side, side) for side in sides)


SIX_LEVELS = (R3, R5, R5, R5, R3, R3)
SEVEN_LEVELS = (R3, R5, R5, R5, R5, R3, R3)

STEPS_300 = squares(8, 16, 32, 64, 100, 300)
STEPS_512_FROM_8 = squares(8, 16, 32, 64, 128, 256, 512)
STEPS_512_FROM_16 = squares(16, 32, 64, 128, 256, 512)

SIZES_300_VOC = (30.0, 60.0, 111.0, 162.0, 213.0, 264.0, 315.0)
SIZES_300_COCO = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)
SIZES_512_VGG = (51.2, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)
SIZES_512_VOC = (51.2, 102.4, 189.4, 276.4, 363.52, 450.6, 492.0)
# SIZES_300_COCO at 512: as large a share of the picture.
SIZES_512_SMALL = (35.84, 76.8, 168.96, 261.12, 353.28, 445.44, 537.6)
SIZES_512_COCO = (51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Family:
    """The rows of one backbone: everything that its data sets share, then what differs."""

    backbone: str
    input_side: int
    feature_sizes: tuple[tuple[int, int], ...]
    ratios: tuple[tuple[float, ...], ...]
    steps: tuple[tuple[float, float], ...]
    sizes: dict[str, tuple[float, ...]]
    project: Project = "gluoncv"
    published_voc07: float | None = None
    published_coco: tuple[float, float, float] | None = None
    sha1: dict[str, str] = dataclasses.field(default_factory=dict)

    def rows(self) -> Iterable[NetworkConfig]:
        classes = {"voc": VOC_CLASSES, "coco": COCO_CLASSES, "custom": ()}
        for dataset, sizes in self.sizes.items():
            yield NetworkConfig(
                name=f"ssd_{self.input_side}_{self.backbone}_{dataset}",
                backbone=self.backbone,
                input_size=(self.input_side, self.input_side),
                class_names=classes[dataset],
                feature_sizes=self.feature_sizes,
                sizes=sizes,
                ratios=self.ratios,
                steps=self.steps,
                project=self.project,
                published_voc07=self.published_voc07 if dataset == "voc" else None,
                published_coco=self.published_coco if dataset == "coco" else None,
                params_sha1=self.sha1.get(dataset),
            )


_FAMILIES = (
    _Family(
        backbone="vgg16_atrous",
        input_side=300,
        feature_sizes=squares(38, 19, 10, 5, 3, 1),
        ratios=SIX_LEVELS,
        steps=STEPS_300,
        sizes={"voc": SIZES_300_VOC, "coco": SIZES_300_COCO, "custom": SIZES_300_COCO},
        published_voc07=77.6,
        published_coco=(25.1, 42.9, 25.8),
        sha1={
            "voc": "0e169fbb64efdee6985c3c175ec4298c4bda0298",
            "coco": "b302ad8a8660345c368448141d8acf30b5a3801d",
        },
    ),
    _Family(
        backbone="vgg16_atrous",
        input_side=512,
        feature_sizes=squares(64, 32, 16, 8, 4, 2, 1),
        ratios=SEVEN_LEVELS,
        steps=STEPS_512_FROM_8,
        sizes={"voc": SIZES_512_VGG, "coco": SIZES_512_VGG, "custom": SIZES_512_VGG},
        published_voc07=79.2,
        published_coco=(28.9, 47.9, 30.6),
        sha1={
            "voc": "daf8181b615b480236fcb8474545077891276945",
            "coco": "5c86064290c05eccbdd88475376c71c595c8325c",
        },
    ),
    _Family(
        backbone="resnet50_v1",
        input_side=512,
        feature_sizes=squares(32, 16, 8, 4, 2, 1),
        ratios=SIX_LEVELS,
        steps=STEPS_512_FROM_16,
        sizes={"voc": SIZES_512_VOC, "coco": SIZES_512_COCO, "custom": SIZES_512_COCO},
        published_voc07=80.1,
        published_coco=(30.6, 50.0, 32.2),
        sha1={
            "voc": "9c8b225a552614e4284a0f647331bfdc6940eb4a",
            "coco": "c48351620d4f0cbc49e4f7a84c8e67ef8fdc6e09",
        },
    ),
    _Family(
        backbone="mobilenet1.0",
        input_side=512,
        feature_sizes=squares(32, 16, 8, 4, 2, 1),
        ratios=SIX_LEVELS,
        steps=STEPS_512_FROM_16,
        sizes={"voc": SIZES_512_VOC, "coco": SIZES_512_VOC, "custom": SIZES_512_VOC},
        published_voc07=75.4,
        published_coco=(21.7, 39.2, 21.3),
        sha1={
            "voc": "37c180765a4eb3e67751d6bacac47bb9156f5fff",
            "coco": "da9756faa5b9b4e34dedcf83ee0733d5895796ad",
        },
    ),
    _Family(
        backbone="resnet50_v1s",
        input_side=512,
        feature_sizes=squares(32, 16, 8, 4, 2, 1),
        ratios=SIX_LEVELS,
        steps=STEPS_512_FROM_16,
        sizes={"voc": SIZES_512_VOC, "custom": SIZES_512_COCO},
    ),
    _Family(
        backbone="resnet34_v1b",
        input_side=300,
        feature_sizes=squares(38, 19, 10, 5, 3, 1),
        ratios=SIX_LEVELS,
        steps=STEPS_300,
        sizes={"voc": SIZES_300_COCO, "coco": SIZES_300_COCO, "custom": SIZES_300_COCO},
        published_coco=(25.1, 41.7, 26.2),
        sha1={"coco": "ade34ff72a2418fac94afe1048bc305b980c83c5"},
    ),
    _Family(
        backbone="resnet18_v1",
        input_side=512,
        feature_sizes=squares(32, 16, 8, 4, 2, 1),
        ratios=SIX_LEVELS,
        steps=STEPS_512_FROM_16,
        sizes={"voc": SIZES_512_VOC, "coco": SIZES_512_VOC, "custom": SIZES_512_VOC},
    ),
    _Family(
        backbone="resnet101_v2",
        input_side=512,
        feature_sizes=squares(32, 16, 8, 4, 2, 1),
        ratios=SIX_LEVELS,
        steps=STEPS_512_FROM_16,
        sizes={"voc": SIZES_512_VOC, "custom": SIZES_512_VOC},
        sha1={"voc": "2cc0f93edf1467f428018cc7261d3246dfa15259"},
    ),
    _Family(
        backbone="mobilenet0.25",
        input_side=300,
        feature_sizes=squares(19, 10, 5, 3, 2, 1),
        ratios=SIX_LEVELS,
        steps=STEPS_300,
        sizes={"voc": SIZES_300_COCO, "coco": SIZES_300_COCO, "custom": SIZES_300_COCO},
    ),
    # Not in GluonCV: for objects that are small in 300 pixels, at nearly three times the operations.
    _Family(
        backbone="mobilenet0.25",
        input_side=512,
        feature_sizes=squares(32, 16, 8, 4, 2, 1),
        ratios=SIX_LEVELS,
        steps=STEPS_512_FROM_16,
        sizes={"custom": SIZES_512_SMALL},
    ),
    # Not in GluonCV: on torchvision's classifiers.
    *(
        _Family(
            backbone=backbone,
            input_side=512,
            feature_sizes=squares(32, 16, 8, 4, 2, 1),
            ratios=SIX_LEVELS,
            steps=STEPS_512_FROM_16,
            sizes={"custom": sizes},
            project="ssd-deploy",
        )
        for backbone, sizes in (
            ("resnet50_v1b", SIZES_512_COCO),
            ("resnet101_v1b", SIZES_512_COCO),
            ("mobilenet_v3_large", SIZES_512_SMALL),
            ("regnet_x_400mf", SIZES_512_SMALL),
        )
    ),
)


def _torchvision_ssdlite(name: str, backbone: str, checkpoint_url: str | None = None) -> NetworkConfig:
    cells = (20, 10, 5, 3, 2, 1)
    return NetworkConfig(
        name=name,
        backbone=backbone,
        project="torchvision",
        input_size=(320, 320),
        class_names=(),
        default_class_names=coco_ids_as_labels(),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resize=RESIZE_RULES["float-linear"].text,
        feature_sizes=squares(*cells),
        sizes=(64.0, 112.0, 160.0, 208.0, 256.0, 304.0, 320.0),
        ratios=(R5,) * 6,
        steps=squares(*(320 / count for count in cells)),
        anchor_clip="sizes",
        postprocess=PostprocessSettings(
            score_threshold=0.001, nms_iou_threshold=0.55, pre_nms_top_k=1000, max_detections=300, clip_boxes=True
        ),
        checkpoint_url=checkpoint_url,
    )


# torchvision, `models/detection/ssd.py` and `ssdlite.py`.
_TORCHVISION = (
    NetworkConfig(
        name="ssd300_vgg16",
        backbone="torchvision_vgg16",
        project="torchvision",
        input_size=(300, 300),
        class_names=(),
        default_class_names=coco_ids_as_labels(),
        mean=(0.48235, 0.45882, 0.40784),
        std=(1 / 255, 1 / 255, 1 / 255),
        resize=RESIZE_RULES["float-linear"].text,
        feature_sizes=squares(38, 19, 10, 5, 3, 1),
        sizes=SIZES_300_COCO,
        ratios=SIX_LEVELS,
        steps=STEPS_300,
        anchor_clip="sizes",
        postprocess=PostprocessSettings(
            score_threshold=0.01, nms_iou_threshold=0.45, pre_nms_top_k=1000, max_detections=200, clip_boxes=True
        ),
        checkpoint_url="https://download.pytorch.org/models/ssd300_vgg16_coco-b556d3b4.pth",
    ),
    _torchvision_ssdlite(
        "ssdlite320_mobilenet_v3_large",
        "ssdlite_mobilenet_v3_large",
        "https://download.pytorch.org/models/ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
    ),
    # What torchvision builds where it starts from ImageNet weights, which is how most are fine-tuned.
    _torchvision_ssdlite("ssdlite320_mobilenet_v3_large_full_tail", "ssdlite_mobilenet_v3_large_full_tail"),
)

# What the networks of pytorch-ssd share (its `vision/ssd/config`, `vision/ssd/predictor.py`). It keeps the best 200 of
# each class before NMS and all behind it; here the candidates are counted over all classes.
_PYTORCH_SSD: dict[str, Any] = {
    "project": "pytorch-ssd",
    "input_size": (300, 300),
    "class_names": (),
    "default_class_names": VOC_CLASSES,  # of the weights that it published
    "resize": RESIZE_RULES["linear"].text,
    "anchor_clip": "all",
    "postprocess": PostprocessSettings(
        score_threshold=0.01, nms_iou_threshold=0.45, pre_nms_top_k=400, max_detections=200
    ),
}
_MOBILENET_SSD: dict[str, Any] = _PYTORCH_SSD | {
    "mean": (127 / 255,) * 3,
    "std": (128 / 255,) * 3,
    "feature_sizes": squares(19, 10, 5, 3, 2, 1),
    "steps": squares(16, 32, 64, 100, 150, 300),
    "sizes": (60.0, 105.0, 150.0, 195.0, 240.0, 285.0, 330.0),
    "ratios": (R5,) * 6,
}

_PYTORCH_SSD_ROWS = (
    NetworkConfig(name="mb1-ssd", backbone="mb1-ssd", **_MOBILENET_SSD),
    NetworkConfig(name="mb2-ssd-lite", backbone="mb2-ssd-lite", **_MOBILENET_SSD),
    NetworkConfig(
        name="vgg16-ssd",
        backbone="vgg16-ssd",
        mean=(123 / 255, 117 / 255, 104 / 255),
        std=(1 / 255,) * 3,
        feature_sizes=squares(38, 19, 10, 5, 3, 1),
        steps=STEPS_300,
        sizes=SIZES_300_VOC,
        ratios=SIX_LEVELS,
        **_PYTORCH_SSD,
    ),
)

NETWORKS: dict[str, NetworkConfig] = {
    row.name: row
    for rows in (*(family.rows() for family in _FAMILIES), _TORCHVISION, _PYTORCH_SSD_ROWS)
    for row in rows
}


def find_network(name: str) -> NetworkConfig:
    """Return a network's row, or the network of another size that its name tells; with a class list or without.

    Raises:
        NetworkError: no such network; the message names the closest ones, or sizes that exist.
    """
    canonical = canonical_name(name)
    config = (
        NETWORKS.get(canonical)
        or network_of_any_size(canonical, NETWORKS)
        or at_resolution(canonical, NETWORKS["mb1-ssd"])
    )
    if config is None:
        close = difflib.get_close_matches(canonical, NETWORKS, n=3)
        hint = f"did you mean {', '.join(close)}? " if close else ""
        raise NetworkError(
            f"there is no network {quoted(name)}; {hint}`ssd-deploy models` lists them all", arguments=("network",)
        )
    return config


def is_network(name: str) -> bool:
    """Whether `find_network` finds it."""
    try:
        find_network(name)
    except NetworkError:
        return False
    return True


def network_config(name: str, class_names: Iterable[str] | None = None) -> NetworkConfig:
    """Look a network up and give it its class list.

    Args:
        name: as `find_network` takes it, upper or lower case, as GluonCV accepts it.
        class_names: of networks that take any: required unless the row has a usual list; for the others it may only
            repeat their own.

    Raises:
        NetworkError: no such network, no class list for a custom one, or another list for a fixed one.
        SpecError: the list is empty or repeats a name.
    """
    config = find_network(name)
    if class_names is None and config.default_class_names:
        class_names = config.default_class_names
    if class_names is None:
        if not config.class_names:
            raise NetworkError(
                f"{config.name} has no class list of its own; give its class names", arguments=("classes",)
            )
        return config
    if isinstance(class_names, str):
        raise NetworkError(f"the class list is the text {class_names!r}; give a list of names", arguments=("classes",))
    classes = tuple(class_names)
    if config.class_names and classes != config.class_names:
        custom = config.name.rsplit("_", 1)[0] + "_custom"
        raise NetworkError(
            f"{config.name} has {len(config.class_names)} fixed classes, but another list of {len(classes)} was given; "
            f"use {custom} for a class list of your own",
            arguments=("network", "classes"),
        )
    return dataclasses.replace(config, class_names=check_class_names(classes))
