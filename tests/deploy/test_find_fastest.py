"""`benchmark --find-fastest`: what is tried, what it loses, which is chosen, and the commands that use it."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import FakeRunner, blocks, write_image
from typer.testing import CliRunner

from export.file_metadata import Int8Target
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from ssd_deploy import load_detector
from ssd_deploy.backends import BACKENDS, Backend, BackendChoice, Finding, parse_backend
from ssd_deploy.benchmark.fastest.candidates import Candidate, candidates, together, with_variants
from ssd_deploy.benchmark.fastest.choose import Trial, fastest, finalists, ranked
from ssd_deploy.benchmark.fastest.commands import Named, in_python, making, using
from ssd_deploy.benchmark.fastest.forms import FLOAT, Form, Made, file_forms, network_forms
from ssd_deploy.benchmark.fastest.losses import Loss, Losses
from ssd_deploy.benchmark.fastest.trials import Running
from ssd_deploy.cli import app
from ssd_deploy.cli import fastest as command
from ssd_deploy.parity.compare import images_as_dataset
from ssd_deploy.parity.criteria import Criteria
from ssd_train import build_network
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.errors import BackendError, DatasetError
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import DetectorSpec

NETWORK = "ssd_300_mobilenet0.25_custom"
ORT = BackendChoice(backend=BACKENDS["onnxruntime"])
ON_CPU = Running(device="cpu", allow_tf32=False, batch_size=1)

Run = Callable[..., tuple[int, str]]
Mistake = Callable[..., str]


# --- What is tried ---


def names(forms: list[Form]) -> list[str]:
    return list(map(str, forms))


def test_files_are_all_that_the_table_of_steps_makes() -> None:
    assert names(file_forms(["fp32", "fp16", "bf16", "int8"], tuple(Int8Target), for_cpu=True)) == [
        "fp32",
        "fp32, Winograd",
        "fp32, Winograd, this CPU's graph",
        "fp32, this CPU's graph",
        "fp16",
        "fp16, this CPU's graph",
        "int8 for any CPU",
        "int8 for any CPU, this CPU's graph",
        "int8 for the CPU",
        "int8 for the CPU, this CPU's graph",
    ]
    assert names(file_forms(["fp32", "int8"], [Int8Target.PORTABLE], for_cpu=False)) == ["fp32", "int8 for any CPU"]
    in_network = [name for name, row in PRECISIONS.items() if row.in_network]
    assert [form.precision for form in network_forms(list(PRECISIONS))] == in_network


def test_only_what_changes_a_bit_has_to_be_scored_by_itself() -> None:
    winograd = Form(precision="fp32", steps=("winograd",))
    assert Form(precision="fp32", steps=("winograd", "cpu")).answers_as == winograd == winograd.answers_as
    assert Form(precision="fp32", steps=("cpu",)).answers_as == FLOAT
    assert Candidate(form=FLOAT, choice=ORT, threads=2).answer == Candidate(form=FLOAT, choice=ORT).answer


def row(name: str, variants: tuple[str, ...] = (), **columns: Any) -> Backend:
    return dataclasses.replace(BACKENDS["onnxruntime"], name=name, variants=variants, **columns)


def test_each_backend_gets_what_it_runs() -> None:
    own = Form(precision="fp32", steps=("cpu",))
    forms = [FLOAT, own, Form(precision="fp16"), Form(precision="bf16", is_network=True)]
    other = with_variants(BackendChoice(backend=row("other", ("wide", "bf16"))))
    tried = candidates(forms, [ORT, *other, parse_backend("torch:compile")], BACKENDS["onnxruntime"])
    assert list(map(str, tried)) == [
        "fp32 in onnxruntime",
        "fp32, this CPU's graph in onnxruntime",
        "fp16 in onnxruntime",
        # A graph of ONNX Runtime's own operators is for nobody else, and only float32 is computed in bf16.
        "fp32 in other",
        "fp16 in other",
        "fp32 in other:wide",
        "fp16 in other:wide",
        "fp32 in other:bf16",
        "network in bf16 in torch:compile",
    ]


def test_what_only_turns_something_off_is_not_tried() -> None:
    switched = row("other", ("wide", "plain"), off_switches=("plain",))
    assert list(map(str, with_variants(BackendChoice(backend=switched)))) == ["other", "other:wide"]
    assert [str(each) for each in with_variants(parse_backend("torch:eager"))] == ["torch:eager"]


def test_variants_that_gain_are_tried_together_and_one_precision_of_them() -> None:
    bare = Candidate(form=FLOAT, choice=BackendChoice(backend=row("other", ("wide", "bf16", "fp16", "slow"))))
    found = together(bare, [("wide", 1.2), ("bf16", 1.4), ("fp16", 1.5), ("slow", 0.8)])
    assert found is not None and str(found) == "fp32 in other:wide+fp16"
    assert together(bare, [("bf16", 1.4), ("fp16", 1.5), ("slow", 0.8)]) is None


# --- Which is chosen ---


def trial(name: str, ms: float, lost: float | None = 0.0, *, limit: float = 0.5, **changes: Any) -> Trial:
    """A trial beside float32's 100 ms; `name` is a precision, and after a plus signs of a step and of variants."""
    precision, *more = name.split("+")
    steps = tuple(each for each in more if each in ("winograd", "cpu"))
    choice = dataclasses.replace(ORT, variants=tuple(each for each in more if each not in steps))
    values = {
        "candidate": Candidate(form=Form(precision=precision, steps=steps), choice=choice),
        "runner": "fake",
        "precision": precision,
        "threads": 1,
        "ms": ms,
        "float_ms": 100.0,
        "loss": None if lost is None else Loss(value=lost, is_allowed=lost <= limit, text=""),
    }
    return Trial(**(values | changes))


def test_the_fastest_that_loses_no_more_than_is_allowed_is_chosen() -> None:
    table = [trial("fp32", 100), trial("int8", 25, 0.6), trial("bf16", 50, 0.4), trial("fp16", 40, None)]
    assert fastest(table) == table[2]
    # 0.6 points are too much of 0.5, and what was not scored is not allowed.
    assert finalists(table, 3) == [table[2], table[0]]
    assert finalists(table, 1) == [table[2]]
    assert [each.precision for each in ranked(table)] == ["int8", "fp16", "bf16", "fp32"]


def test_where_nothing_is_allowed_there_is_none() -> None:
    assert fastest([trial("fp32", 100, 1.0), trial("int8", 20, 2.0)]) is None
    assert fastest([]) is None


def test_the_finals_decide_and_stand_first() -> None:
    first_round = trial("bf16", 40)
    table = [first_round, trial("int8", 45, is_final=True), trial("fp32", 100, is_final=True)]
    assert fastest(table) == table[1]
    assert [each.precision for each in ranked(table)] == ["int8", "fp32", "bf16"]


def test_of_what_is_equally_fast_the_simplest_is_chosen() -> None:
    table = [trial("fp32+cpu", 50), trial("fp32", 51), trial("fp32+wide", 50.5)]
    assert fastest(table) == table[1]
    # 4 % are more than times of one thing differ by.
    assert fastest([table[0], trial("fp32", 52)]) == table[0]
    # The ratio decides, since each was measured at another moment: this one beside a float32 of 80 ms.
    assert fastest([table[0], trial("bf16", 45, float_ms=80.0)]) == table[0]


# --- What is lost ---

SPEC = DetectorSpec(network="fake", class_names=("a", "b"), input_size=(32, 32))
BOTH = [(0, 0, 16, 16, 0.9, 1), (16, 16, 32, 32, 0.8, 0)]


@pytest.fixture(scope="module")
def two_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("two")
    return [write_image(folder / f"{seed}.png", blocks(32, 32, 8, seed)) for seed in range(2)]


def losses(two_images: list[Path], rows: list[Any] = BOTH, **criteria: float) -> Losses:
    dataset = images_as_dataset(two_images, SPEC.class_names)
    return Losses(FakeRunner(SPEC, rows), dataset, metric=None, criteria=Criteria(**criteria))


def in_(precision: str, rows: list[Any]) -> FakeRunner:
    return FakeRunner(dataclasses.replace(SPEC, precision=precision), rows)


def test_without_ground_truth_the_share_of_changed_detections_is_lost(two_images: list[Path]) -> None:
    against = losses(two_images)
    same, one = against.of(in_("int8", BOTH)), against.of(in_("int8", BOTH[:1]))
    assert (same.value, same.is_allowed) == (0, True)
    # One of two vanished, where int8 may change a tenth.
    assert (one.value, one.is_allowed) == (50, False) and "2 of 4" in one.text
    # Float32 is held to what rounding explains: 0.01 of a score is more.
    moved = [(0, 0, 16, 16, 0.91, 1), BOTH[1]]
    assert not against.of(in_("fp32", moved)).is_allowed and against.of(in_("fp16", moved)).is_allowed


def test_a_reference_that_finds_nothing_is_no_reference(two_images: list[Path]) -> None:
    with pytest.raises(DatasetError, match="finds nothing with a score of at least 0.3"):
        losses(two_images, [(0, 0, 16, 16, 0.2, 1)])


# --- All of it, once, with the packaged detector ---


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data", train=3, val=4, seed=1)


@pytest.fixture(scope="module")
def calibration(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three pictures of the training split alone."""
    folder = tmp_path_factory.mktemp("calibration")
    for name in (shapes / "ImageSets/Main/train.txt").read_text().split():
        (folder / f"{name}.jpg").symlink_to(shapes / "JPEGImages" / f"{name}.jpg")
    return folder


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return export_onnx(build_network(NETWORK, "shapes"), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def made(float_file: Path, calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Makes files of the file, by settings that are none of the usual ones."""
    int8 = QuantizeOptions(calibration_data=calibration, calibration_images=2, calibration_method="minmax")
    return Made(float_file, None, int8, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """A folder to type commands in, with pictures in `photos`."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "photos").mkdir()
    for path in sorted((shapes / "JPEGImages").iterdir())[:2]:
        (folder / "photos" / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def short() -> Iterator[None]:
    """One timed call in every turn, and no numbers of threads beside the usual one, which tests share a core for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "TURN_SECONDS", 0)
        patch.setattr("ssd_deploy.benchmark.fastest.trials.other_threads", lambda used: [2])
        yield


@pytest.fixture(scope="module")
def broken() -> Iterator[None]:
    """A backend that says that it works, and does not; its error is none of ours."""

    def fail(*arguments: Any) -> Any:
        raise RuntimeError("the driver is out of order\nand says more")

    bad = row("broken", ("half",), open=fail, probe=lambda device: Finding(works=True, detail=""))
    absent = row("absent", probe=lambda device: Finding(works=False, detail="is not installed"))
    BACKENDS.add(bad)
    BACKENDS.add(absent)
    yield
    for each in (bad, absent):
        del BACKENDS._rows[each.name]


@pytest.fixture(scope="module")
def ran(
    short: None, broken: None, float_file: Path, shapes: Path, calibration: Path, work: Path
) -> tuple[str, dict[str, Any], Path]:
    """The output, the JSON and the chart of a whole search."""
    chart = work / "chart.png"
    result = CliRunner().invoke(app, list(map(str, [
        "benchmark", float_file, "--find-fastest", "--data", shapes, "--max-drop", 100, "--rounds", 1,
        "--backend", "onnxruntime,broken,absent",
        "--calibration-data", calibration, "--int8-target", "cpu",
        "--chart", chart, "--json", work / "found.json", "--quiet",
    ])))  # fmt: skip
    assert result.exit_code == 0, result.output
    return result.output, json.loads((work / "found.json").read_text()), chart


def test_a_whole_search_says_what_is_fastest_and_what_everything_loses(ran: tuple[str, dict[str, Any], Path]) -> None:
    output, data, chart = ran
    assert data["loss_unit"] == "points of VOC07 mAP lost" and data["images"] == 4
    by_name = {trial["runs"]: trial for trial in data["trials"] if trial["threads_asked"] == 0}
    assert set(by_name) == {
        "fp32", "fp32, this CPU's graph", "int8 for the CPU", "int8 for the CPU, this CPU's graph",
    }  # fmt: skip
    assert by_name["fp32"]["loss"]["value"] == 0
    assert data["best"] in data["trials"] and data["best"]["is_final"]
    final = [trial for trial in data["trials"] if trial["is_final"]]
    assert data["trials"][: len(final)] == final
    assert {trial["threads_asked"] for trial in final} == {0, 2}
    for line in (f"fastest: {data['best']['runs']} in onnxruntime", data["using"], data["in_python"]):
        assert line in output
    # Once, or twice where the columns stand in two blocks, as a narrow terminal has them.
    assert len([line for line in output.splitlines() if line.startswith("*")]) in (1, 2)
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_what_does_not_work_costs_itself_alone(ran: tuple[str, dict[str, Any], Path]) -> None:
    output, data, _ = ran
    assert any(line == "absent: is not installed" for line in data["failed"])
    # The backend is at fault, and not its variant, and several files of it fail alike.
    assert [line for line in data["failed"] if "broken" in line] == ["fp32 in broken: the driver is out of order"]
    assert any("none of its convolutions gains by Winograd" in line for line in data["failed"])
    assert "does not run: fp32 in broken: the driver is out of order\n" in output


def typed(line: str) -> list[str]:
    program, *words = shlex.split(line)
    assert program == "ssd-deploy"
    return words


def test_the_commands_that_are_printed_run(
    ran: tuple[str, dict[str, Any], Path], run_cli: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data, _ = ran
    monkeypatch.chdir(work)
    for line in (*data["making"], data["using"]):
        code, output = run_cli(*typed(line))
        assert code == 0, output
    with eval(data["in_python"], {"load_detector": load_detector}) as detector:
        assert detector.runner.name.startswith("onnxruntime")
        assert len(detector.detect(sorted(Path("photos").iterdir())[0])) > 0


OWN_INT8 = Form(precision="int8", target=Int8Target.CPU, steps=("cpu",))


@pytest.mark.parametrize(
    ("is_file", "form"),
    [(True, FLOAT), (True, Form(precision="fp32", steps=("cpu",))), (True, OWN_INT8), (False, OWN_INT8)],
    ids=["file", "file rewritten", "file quantized and rewritten", "network quantized and rewritten"],
)
def test_the_commands_make_the_very_file_that_was_measured(
    is_file: bool, form: Form, run_cli: Run, float_file: Path, made: Made, tmp_path: Path
) -> None:
    words, file = ((str(float_file),), float_file) if is_file else ((NETWORK, "--weights", "shapes"), None)
    commands = making(Named(words=words, file=file, arguments=()), made, form, tmp_path / "own folder")
    assert bool(commands) == (form != FLOAT)
    for line in commands:
        code, output = run_cli(*typed(line))
        assert code == 0, output
    if commands:
        assert (tmp_path / "own folder" / made.path(form).name).read_bytes() == made.path(form).read_bytes()


def test_a_run_is_asked_for_as_it_was_measured(float_file: Path) -> None:
    of_file = Named(words=("a b.onnx",), file=Path("a b.onnx"), arguments=("'a b.onnx'",))
    other = BackendChoice(backend=row("other", ("wide", "bf16")), variants=("wide", "bf16"))
    chosen = Candidate(form=FLOAT, choice=other, threads=3)
    assert using(of_file, Path("a b.onnx"), chosen, ON_CPU) == (
        "ssd-deploy detect 'a b.onnx' photos --backend other:wide --precision bf16 --threads 3 --batch-size 1"
    )
    assert in_python(of_file, Path("a b.onnx"), chosen, ON_CPU) == (
        "load_detector('a b.onnx', backend='other:wide', precision='bf16', threads=3, batch_size=1)"
    )
    network = Named(words=(NETWORK, "--weights", "w.pth"), file=None, arguments=(repr(NETWORK), "weights='w.pth'"))
    run = Candidate(form=Form(precision="bf16", is_network=True), choice=parse_backend("torch:channels-last"))
    on_gpu = Running(device="cuda", allow_tf32=True, batch_size=8)
    assert using(network, None, run, on_gpu) == (
        f"ssd-deploy detect {NETWORK} --weights w.pth photos --backend torch:channels-last --precision bf16 "
        "--batch-size 8 --allow-tf32"
    )
    assert in_python(network, None, run, on_gpu) == (
        f"load_detector('{NETWORK}', weights='w.pth', backend='torch:channels-last', precision='bf16', batch_size=8, "
        "allow_tf32=True)"
    )


def test_a_network_is_held_against_pytorch_and_its_file_is_kept(
    short: None, run_cli: Run, shapes: Path, tmp_path: Path
) -> None:
    code, output = run_cli(
        *("benchmark", NETWORK, "--weights", "shapes", "--find-fastest", "--data", shapes, "--limit", 2),
        *("--precision", "fp32", "--backend", "onnxruntime", "--rounds", 1, "--out", tmp_path / "kept"),
        *("--json", tmp_path / "found.json"),
    )
    assert code == 0, output
    data = json.loads((tmp_path / "found.json").read_text())
    assert data["reference"] == "torch (cpu) in float32" and "the first 2 of 4 images" in data["data"]
    assert data["kept"] is not None and Path(data["kept"]).is_file() and data["making"] == []
    assert shlex.split(data["using"])[2] == data["kept"]


# --- Wrong options ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-drop", 1], "'--max-drop': needs --find-fastest"),
        (["--data", "{shapes}"], "'--data': needs --find-fastest"),
        (["--out", "."], "'--out': needs --find-fastest"),
        (["--find-fastest", "--max-drop", 1], "'--max-drop': needs --data"),
        (["--find-fastest", "--max-drop", 101, "--data", "{shapes}"], "101.0 is not 0 to 100"),
        (["--find-fastest", "--data", "{shapes}", "--images", "{shapes}"], "either --data or --images"),
        (["--find-fastest", "--batch-size", "1,8"], "--find-fastest takes one"),
        (["--find-fastest", "--data", "{shapes}", "--backend", "torch"], "backend torch runs a network, not a file"),
        (["--find-fastest", "--data", "{shapes}", "--backend", "tensorrt"], "tensorrt does not run on cpu"),
        (
            ["--find-fastest", "--data", "{shapes}", "--calibration-data", "{shapes}"],
            "which is compared on too; calibrate on other images",
        ),
        (["--find-fastest", "{model}"], "are two models; name one"),
    ],
)
def test_mistakes_are_one_sentence(
    options: list[Any], words: str, mistake: Mistake, float_file: Path, shapes: Path, model_path: Path
) -> None:
    given = [str(each).format(shapes=shapes, model=model_path) for each in options]
    assert words in mistake("benchmark", float_file, *given)


def test_only_float32_is_a_start(mistake: Mistake, float_file: Path, run_cli: Run, tmp_path: Path) -> None:
    code, output = run_cli("export", float_file, "--optimize-for-cpu", "--out", tmp_path)
    assert code == 0, output
    (rewritten,) = tmp_path.iterdir()
    line = mistake("benchmark", rewritten, "--find-fastest")
    assert "is fp32, cpu; name the float32 file or the network that it was made of" in line
    assert "which winograd does not take" in mistake("export", rewritten, "--winograd", "--out", tmp_path)


def test_a_network_that_finds_nothing_in_shapes_needs_pictures(mistake: Mistake, short: None) -> None:
    line = mistake("benchmark", "ssd_300_mobilenet0.25_voc", "--weights", "random", "--find-fastest", "--limit", 1)
    assert "finds nothing with a score of at least 0.3" in line


# --- What else it needs ---


def test_load_detector_takes_a_device_and_variants_behind_a_colon(model_path: Path) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    with load_detector(model_path, backend="onnxruntime:cpu") as detector:
        assert detector.runner.name == "onnxruntime (CPU)" and len(detector.detect(image)) == 0
    with load_detector("ssd_300_mobilenet0.25_voc", weights="random", backend="torch:channels-last") as detector:
        assert detector.runner.name == "torch (cpu, channels-last)"
    with pytest.raises(BackendError, match="'onnxruntime:cpu' and device 'cuda' contradict"):
        load_detector(model_path, backend="onnxruntime:cpu", device="cuda")
    with pytest.raises(BackendError, match="no variant 'fast'"):
        load_detector(model_path, backend="onnxruntime:fast")


def test_paritys_limit_is_no_option_of_int8(mistake: Mistake, tmp_path: Path) -> None:
    for precision in ("fp16", "bf16"):
        given = ["--weights", "shapes", "--precision", precision, "--max-drop", 1, "--data", tmp_path / "none"]
        assert "no such folder" in mistake("parity", NETWORK, *given)


def test_a_search_that_is_stopped_says_what_it_found(
    run_cli: Run, short: None, float_file: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd_deploy.benchmark.fastest.search._try_all", stopped)
    given = ["--images", shapes / "JPEGImages", "--limit", 2, "--backend", "onnxruntime"]
    code, output = run_cli("benchmark", float_file, "--find-fastest", *given)
    assert code == 0 and "stopped by Ctrl-C or another signal: what is missing was not tried" in output
    # Of pictures the share that changed counts, and float32 is what is known by then.
    assert "% of the detections of at least 0.3 changed, against onnxruntime (CPU) in float32" in output
    assert "fastest: fp32 in onnxruntime: " in output and "nothing else is allowed" in output
    assert f"use it: ssd-deploy detect {float_file} photos --backend onnxruntime --batch-size 1" in output
