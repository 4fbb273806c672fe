"""What is no regular file, in the place of one: nothing waits for it, and one sentence says so."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_train.class_list import read_class_list
from ssd_train.datasets.image_paths import image_size
from ssd_train.datasets.voc_xml import class_names_in
from ssd_train.datasets.yolo_yaml import read_yaml
from ssd_train.errors import SSDDeployError
from ssd_train.input_files import read_text
from ssd_train.json_input import JSONError, read_annotations
from ssd_train.preprocess import load_image
from ssd_train.training.checkpoint import read_checkpoint
from ssd_train.weights.params_file import read_bytes

READERS: dict[str, Callable[[Path], object]] = {
    "picture": load_image,
    "size": image_size,
    "yaml": read_yaml,
    "class list": read_class_list,
    "weights": read_bytes,
    "xml": class_names_in,
    "checkpoint": read_checkpoint,
    "annotations": read_annotations,
}


@pytest.fixture(params=["pipe", "zeros"])
def odd_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "odd"
    if request.param == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("reader", READERS)
def test_nothing_waits_or_reads_for_ever(odd_path: Path, reader: str) -> None:
    ended = threading.Event()

    def read() -> None:
        try:
            assert READERS[reader](odd_path) == []  # XML that cannot be read has no classes
        except (SSDDeployError, JSONError) as error:
            assert "\n" not in str(error)
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    assert ended.wait(20)


def test_what_data_sets_hold_is_regular(odd_path: Path) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        read_text(odd_path)


def test_a_pipe_that_somebody_writes_into_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # Held open, as a shell does for `<(...)`; what is written comes later than the reader.
    held = os.open(path, os.O_RDWR)
    writing = threading.Timer(0.2, lambda: (os.write(held, b"cat\ndog\n"), os.close(held)))
    writing.start()
    assert read_class_list(path) == ("cat", "dog")
    writing.join()
