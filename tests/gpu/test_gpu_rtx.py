"""What TensorRT for RTX says of the card here, in its own words: it supports consumer and workstation cards only."""

import pytest
from gpu_parts import Record

from export.engine.plan import try_out
from ssd_deploy.backends.probes import IDENTITY_ONNX
from ssd_train.errors import SSDDeployError

pytestmark = pytest.mark.gpu


def test_tensorrt_for_rtx_loads_an_engine_on_this_card_or_says_why_not(record: Record) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    try:
        try_out("tensorrt-rtx", IDENTITY_ONNX)
        said = "builds and loads an engine on this card"
    except SSDDeployError as error:
        said = str(error)
    print(said)
    record(tensorrt_rtx=said)
    assert "\n" not in said
