"""Files of other frameworks are named in the error; their first bytes and names are written out here."""

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from ssd_train.errors import WeightsError
from ssd_train.weights.description import describe_weights

PROTOBUF = b"\x0a\x0e\x0a\x05input\x12\x05other"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("ssd.tflite", b"\x1c\x00\x00\x00TFL3\x14\x00\x20\x00", "a TensorFlow Lite model"),
        ("renamed.pth", b"\x1c\x00\x00\x00TFL3\x14\x00\x20\x00", "a TensorFlow Lite model"),
        ("ssd7.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file, as Keras writes weights"),
        ("ssd.keras", b"PK\x03\x04" + bytes(20), "a Keras model"),
        ("frozen_inference_graph.pb", PROTOBUF, "a TensorFlow graph"),
        ("pipeline.pbtxt", b"node {", "a TensorFlow graph"),
        ("model.ckpt-200000.index", b"\x00\x00\x0a", "a part of a TensorFlow checkpoint"),
        ("model.ckpt-200000.data-00000-of-00001", b"\x01\x02", "a part of a TensorFlow checkpoint"),
        ("model.ckpt-200000.meta", PROTOBUF, "a part of a TensorFlow checkpoint"),
        ("VGG_VOC0712_SSD_300x300_iter_120000.caffemodel", PROTOBUF, "a Caffe model"),
        ("ppyolo.pdparams", pickle.dumps({"conv.w_0": np.zeros(3, np.float32)}, protocol=2), "a PaddlePaddle model"),
        ("yolov3.weights", b"\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00", "a Darknet file"),
    ],
)
def test_a_file_of_another_framework_is_named_and_the_way_out_too(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError) as raised:
        describe_weights(path)
    assert str(raised.value).startswith(f"{path}: is {expected}")
    assert "not supported" in str(raised.value) and "`ssd-deploy adopt`" in str(raised.value)


def test_a_checkpoint_of_pytorch_is_read_whatever_it_is_called(tmp_path):
    for name in ("checkpoint", "net.weights", "net.index", "net.pb"):
        torch.save({"a.weight": torch.zeros(2)}, tmp_path / name)
        assert describe_weights(tmp_path / name).tensors == 1


@pytest.mark.parametrize(
    ("module", "expected", "advice"),
    [
        ("ultralytics.nn.tasks", "an Ultralytics YOLO model", "YOLO is no SSD"),
        ("models.yolo", "a YOLOv5 or YOLOv7 model", "YOLO is no SSD"),
        ("vision.ssd.ssd", "a whole model of pytorch-ssd", "save only the network's state_dict()"),
        ("torchvision.models.detection.ssd", "a whole torchvision model", "save only the network's state_dict()"),
        ("somebodys.ssd", "a pickle of more than plain tensors", "save only the network's state_dict()"),
    ],
)
def test_a_whole_pickled_model_is_named_by_its_class(tmp_path, monkeypatch, module, expected, advice):
    # A class of that name, made here: the pickle says no more than where it is from.
    fake = types.ModuleType(module)
    fake.Net = type("Net", (torch.nn.Linear,), {"__module__": module, "__qualname__": "Net"})
    parts = module.split(".")
    for end in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(parts[0]))
    monkeypatch.setitem(sys.modules, module, fake)
    path = Path(tmp_path / "whole.pt")
    torch.save({"model": fake.Net(2, 2)}, path)
    with pytest.raises(WeightsError) as raised:
        describe_weights(path)
    assert f"since it is {expected} (or damaged)" in str(raised.value)
    assert f"{module}.Net" in str(raised.value) and advice in str(raised.value)
