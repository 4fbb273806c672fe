"""The tests on the stand-in for TensorRT, on a real card: its memory, its streams, its graphs, both CUDA packages.

TensorRT itself is not needed. ONNX Runtime's CUDA provider computes, on the device pointers and in the stream that
the runner hands over. Each test is printed as soon as it is done; SSD_STAND_IN_SECONDS bounds the cycles of create,
run, destroy, whose number is printed.

It was not run yet.
"""

import subprocess

import pytest
from run_stand_in import TESTS, command, environment
from test_gpu_process import LAYERS, open_layer

from ssd_train.errors import BackendError

pytestmark = pytest.mark.gpu

# All of it, with one CUDA package, in less than 150.
MOST_SECONDS = {"running_engines.py": 55, "building_engines.py": 20, "finding_misuses.py": 15}


@pytest.mark.parametrize("file", MOST_SECONDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_stand_in_runs_on_this_card(
    layer: str, file: str, onnxruntime_on_gpu: None, capfd: pytest.CaptureFixture[str]
) -> None:
    run_on_card(layer, file, MOST_SECONDS[file], capfd)


def test_every_command_takes_an_engine_on_this_card(
    onnxruntime_on_gpu: None, capfd: pytest.CaptureFixture[str]
) -> None:
    # Whichever CUDA package works; the last one's reason is given where none does.
    layer = next((each for each in LAYERS if why_not(each) is None), LAYERS[-1])
    run_on_card(layer, "commands.py", 55, capfd)


def why_not(layer: str) -> str | None:
    """Say why a CUDA package does not reach the card; None where it does."""
    try:
        open_layer(layer)
    except BackendError as error:
        return str(error)
    return None


def run_on_card(layer: str, file: str, seconds: float, capfd: pytest.CaptureFixture[str]) -> None:
    """Fail unless all tests of a file pass; what they print is not captured but shown at once."""
    if reason := why_not(layer):
        pytest.skip(f"{layer}: {reason}")
    pytest.importorskip("onnx", reason="onnx is not installed, which the stand-in parses files with")
    variables = environment(layer, None)
    variables.setdefault("SSD_STAND_IN_SECONDS", str(seconds / 3))
    with capfd.disabled():
        print(f"\n{file} through {layer}", flush=True)
        try:
            done = subprocess.run(command(file, "--tb=short"), env=variables, cwd=TESTS.parent, timeout=seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{file} through {layer}: not done after {seconds:.0f} s; the lines above say how far it came")
    assert done.returncode == 0, f"{file} through {layer}: see the lines above"
