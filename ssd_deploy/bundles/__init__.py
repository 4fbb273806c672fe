"""The table of bundles: folders that a server or a pipeline of others takes as they are, made of one exported file.

A bundle is a module beside this file and one row here. The command line's choices are made of the rows. Light: what a
row calls is imported when it is called.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ssd_train.errors import ModelError
from ssd_train.table import Table


@dataclasses.dataclass(frozen=True)
class Bundle:
    """One row.

    Attributes:
        name: what the command line calls it.
        title: what it is for, in a few words.
        write: (ONNX file or engine of ours, empty folder) -> the files that it wrote there. Raises subclasses of
            SSDDeployError. `folder.write_bundle` puts them where the user wants them.
    """

    name: str
    title: str
    write: Callable[[Path, Path], list[Path]]


def _write_triton(model: Path, folder: Path) -> list[Path]:
    from ssd_deploy.bundles.triton.repository import write_repository

    return write_repository(model, folder)


def _write_triton_pictures(model: Path, folder: Path) -> list[Path]:
    from ssd_deploy.bundles.triton.pictures import write_picture_repository

    return write_picture_repository(model, folder)


def _write_ovms(model: Path, folder: Path) -> list[Path]:
    from ssd_train.requirements import require

    require("openvino", "openvino", "A model for OpenVINO Model Server")
    from ssd_deploy.bundles.ovms import write_served_model

    return write_served_model(model, folder)


def _write_frigate(model: Path, folder: Path) -> list[Path]:
    from ssd_train.requirements import require

    require("onnx", "export", "A file for Frigate")
    from ssd_deploy.bundles.frigate import write_frigate

    return write_frigate(model, folder)


def _write_deepstream(model: Path, folder: Path) -> list[Path]:
    from ssd_train.requirements import require

    require("onnx", "export", "The bundle for DeepStream")
    from ssd_deploy.bundles.deepstream.bundle import write_deepstream

    return write_deepstream(model, folder)


BUNDLES: Table[Bundle] = Table(
    "bundle",
    (
        Bundle("triton", "a model repository of NVIDIA's Triton Inference Server", _write_triton),
        Bundle("triton-pictures", "the same with pre-processing, for picture files", _write_triton_pictures),
        Bundle("ovms", "a model of OpenVINO Model Server", _write_ovms),
        Bundle("frigate", "a detector of Frigate, the video recorder", _write_frigate),
        Bundle("deepstream", "what NVIDIA DeepStream's nvinfer takes", _write_deepstream),
    ),
    ModelError,
)
