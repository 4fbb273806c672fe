"""`eval` finds the thresholds to use a detector at, and keeps them with it: nothing that it computes with changes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_data import write_image

from export import winograd
from export.engine.file import BuildOptions, EngineInfo, read_info, write_info
from export.file_metadata import WINOGRAD_KEY
from export.metadata_entry import write_entry
from export.quantize_options import QuantizeOptions
from export.session import describe_exported
from export.step import Rewritten
from export.steps import STEPS
from ssd_deploy.describe import description_of
from ssd_deploy.model_source import find_model
from ssd_deploy.saved_thresholds import keep_thresholds
from ssd_train import build_network
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.files import sha256_of_file
from ssd_train.precisions import in_precision
from ssd_train.spec import DetectorSpec, WorkingThresholds
from ssd_train.weights.load import SHAPES_NETWORK
from ssd_train.weights.network_file import save_network

Run = Callable[..., tuple[int, str]]
Mistake = Callable[..., str]

ENTRY = "working_thresholds"
FOUND = WorkingThresholds(overall=0.25, per_class={"circle": 0.5, "star": 0.125}, found_by="by hand")
CARRIED = WorkingThresholds(overall=0.4, found_by="before the export")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=12, seed=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder without thresholds; nobody writes to it."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    save_network(build_network(SHAPES_NETWORK, "shapes"), folder / "best.safetensors")
    return folder


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that was exported from a run folder with thresholds."""
    from export.onnx import export_onnx

    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("saved") / "run"))
    keep_thresholds(find_model(folder), CARRIED)
    return export_onnx(find_model(folder).load(), folder)


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported, tmp_path / "model.onnx"))


@pytest.fixture
def evaluated(run_cli: Run, shapes: Path, tmp_path: Path) -> Callable[..., tuple[dict, str]]:
    def run(*arguments: object) -> tuple[dict, str]:
        path = tmp_path / "report.json"
        code, output = run_cli("eval", *arguments, "--data", shapes, "--split", "val", "--json", path)
        assert code == 0, output
        return json.loads(path.read_text()), output

    return run


def spec_of(path: Path) -> DetectorSpec:
    return describe_exported(path).spec


def engine_info() -> EngineInfo:
    return EngineInfo(
        flavour="tensorrt",
        tensorrt_version="10.16.1",
        spec=DetectorSpec(network="tiny", class_names=("bolt", "Mutter ü"), input_size=(64, 64)),
        options=BuildOptions(),
        inputs={},
        outputs={},
        gpu=None,
        compute_capability=None,
        onnx_sha256="",
        plan_sha256="",
        size_bytes=4,
        build_seconds=1.5,
        layer_precisions=None,
        warnings=(),
    )


# --- Found ---


def test_eval_prints_the_points_and_the_json_has_them(evaluated: Callable, model: Path) -> None:
    report, output = evaluated(model, "--at", "recall=0.5")
    assert set(report["operating_points"]) == {"best F1", "recall=0.5"}
    best = report["operating_points"]["best F1"]
    assert set(best["per_class"]) == {"circle", "cross", "square", "star", "triangle"}
    point = best["all"]
    assert point["f1"] > 0.8 and point["true"] + point["missed"] == report["objects"]
    assert point["precision"] == point["true"] / (point["true"] + point["false"])
    wished = report["operating_points"]["recall=0.5"]["all"]
    assert wished["recall"] >= 0.5 and wished["threshold"] > point["threshold"]
    row = next(line for line in output.splitlines() if line.startswith("all "))
    assert row.split()[1:3] == [f"{point['threshold']:g}", f"{100 * point['precision']:.2f}"]
    assert report["thresholds_saved_in"] is None
    table = output[output.index("thresholds for best F1") :].splitlines()
    assert "thresholds for recall=0.5" in output and max(map(len, table)) <= 80


def test_a_precision_that_no_threshold_reaches_is_said(evaluated: Callable, model: Path, shapes: Path) -> None:
    _, output = evaluated(model, "--at", "recall=1")
    assert "no threshold reaches recall=1 for all" in output


@pytest.mark.parametrize("text", ["precision", "precision=2", "f1=0.5"])
def test_a_wish_that_makes_no_sense_is_one_sentence(mistake: Mistake, model: Path, shapes: Path, text: str) -> None:
    line = mistake("eval", model, "--data", shapes, "--split", "val", "--at", text)
    assert f"'{text}'" in line and "--at" in line


def black_picture(folder: Path, *boxes: list[int]) -> tuple[object, ...]:
    """Make a COCO file of one picture with nothing to see; returns the options that name it."""
    write_image(folder / "data" / "a.png", np.zeros((60, 60, 3), np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 60}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 0, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for number, box in enumerate(boxes, 1)
        ],
        "categories": [{"id": 0, "name": "circle"}],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return "--annotations", folder / "coco.json", "--images", folder / "data"


def test_where_nothing_right_is_found_nothing_is_saved(run_cli: Run, model: Path, tmp_path: Path) -> None:
    code, output = run_cli("eval", model, *black_picture(tmp_path, [5, 5, 3, 3]), "--save-thresholds")
    assert code == 1 and "no thresholds were saved, since nothing that is right was found" in output
    assert spec_of(model).working_thresholds == CARRIED


def test_without_objects_there_is_no_point(run_cli: Run, mistake: Mistake, model: Path, tmp_path: Path) -> None:
    given = ("eval", model, *black_picture(tmp_path))
    code, output = run_cli(*given)
    assert code == 0 and "no score" in output and "threshold  " not in output
    assert "--save-thresholds" in mistake(*given, "--save-thresholds")


# --- Kept in an exported file ---


def test_only_the_entry_of_an_exported_file_changes(model: Path) -> None:
    before, graph = model.read_bytes(), onnx.load(model).graph.SerializeToString()
    metadata = describe_exported(model).metadata
    assert graph in before
    for _ in range(2):
        keep_thresholds(find_model(model), FOUND)
        assert graph in model.read_bytes()
        assert spec_of(model).working_thresholds == FOUND
    after = onnx.load(model)
    onnx.checker.check_model(after, full_check=True)
    assert len(after.metadata_props) == len(metadata)
    assert {**describe_exported(model).metadata, ENTRY: ""} == {**metadata, ENTRY: ""}
    # What the entry of before is put back with is the file of before, but for the order of its fields.
    write_entry(model, ENTRY, metadata[ENTRY])
    assert sorted(model.read_bytes()) == sorted(before)


def test_a_file_without_the_entry_gets_it_and_nothing_else(model: Path) -> None:
    bare = onnx.load(model)
    entry = next(each for each in bare.metadata_props if each.key == ENTRY)
    bare.metadata_props.remove(entry)
    onnx.save(bare, model)
    before = model.read_bytes()
    assert spec_of(model).working_thresholds is None
    keep_thresholds(find_model(model), CARRIED)
    assert model.read_bytes().startswith(before) and spec_of(model).working_thresholds == CARRIED
    # Written as an export writes it.
    assert describe_exported(model).metadata[ENTRY] == entry.value


def test_a_changed_file_gives_the_same_values_to_the_bit(model: Path, exported: Path) -> None:
    keep_thresholds(find_model(model), FOUND)
    images = np.random.default_rng(0).normal(size=(1, 3, 300, 300)).astype(np.float32)
    theirs, ours = (onnxruntime.InferenceSession(path).run(None, {"images": images}) for path in (exported, model))
    for expected, got in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(expected, got)


def test_saving_does_not_change_what_eval_finds(evaluated: Callable, model: Path) -> None:
    first, output = evaluated(model, "--save-thresholds")
    assert first["thresholds_saved_in"] == str(model) and f"saved in {model}" in output
    saved = spec_of(model).working_thresholds
    assert saved is not None and saved.overall == first["operating_points"]["best F1"]["all"]["threshold"] > 0.1
    assert saved.found_by == "best F1 on voc val, 12 images, IoU 0.5"
    second, _ = evaluated(model)
    for key in ("numbers", "per_class", "detections", "operating_points"):
        assert first[key] == second[key]


def test_the_wished_point_is_the_one_that_is_saved(evaluated: Callable, run_cli: Run, model: Path) -> None:
    report, _ = evaluated(model, "--at", "precision=0.95", "--save-thresholds")
    saved, points = spec_of(model).working_thresholds, report["operating_points"]["precision=0.95"]
    assert saved is not None and saved.overall == points["all"]["threshold"]
    assert saved.per_class == {name: point["threshold"] for name, point in points["per_class"].items()}
    code, output = run_cli("info", model)
    assert code == 0 and f"working threshold, overall: {saved.overall:g}\n" in output
    assert "working threshold, found by: precision=0.95 on voc val" in output


@pytest.mark.parametrize("damage", [b"", b"no model at all", b"\x08"])
def test_a_file_that_is_no_model_is_not_touched(tmp_path: Path, damage: bytes) -> None:
    from ssd_train.errors import ModelError

    path = tmp_path / "a.onnx"
    path.write_bytes(damage + b"\x3a\x7f")
    with pytest.raises(ModelError, match="not a usable ONNX file"):
        write_entry(path, ENTRY, "{}")
    assert path.read_bytes() == damage + b"\x3a\x7f"


@pytest.mark.parametrize("step", ["cpu", "winograd", "int8"])
def test_steps_keep_them(step: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if step == "winograd":  # gains nothing with this network; what a step writes is decided in one place for all
        rewritten = lambda graph, *_: Rewritten(model=graph.model, metadata={WINOGRAD_KEY: "all"})  # noqa: E731
        monkeypatch.setattr(winograd, "rewrite", rewritten)
    picture = write_image(tmp_path / "noise.png", np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    settings = QuantizeOptions(calibration_data=picture.parent) if step == "int8" else None
    path = STEPS[step].apply(exported, tmp_path, settings).path
    assert path is not None and spec_of(path).working_thresholds == CARRIED
    graph = onnx.load(path).graph.SerializeToString()
    keep_thresholds(find_model(path), FOUND)
    assert spec_of(path).working_thresholds == FOUND and graph in path.read_bytes()


def test_an_engine_has_them_in_its_json(tmp_path: Path) -> None:
    engine = tmp_path / "x.engine"
    engine.write_bytes(b"plan")
    write_info(engine, engine_info())
    found = WorkingThresholds(overall=0.25, per_class={"bolt": 1.0})
    keep_thresholds(find_model(engine), found)
    info = read_info(engine)
    assert info.spec.working_thresholds == found and engine.read_bytes() == b"plan"
    keep_thresholds(find_model(engine), CARRIED)
    assert read_info(engine).spec.working_thresholds == CARRIED


# --- Kept beside weights ---


def test_a_run_folder_keeps_them_beside_its_weights(
    evaluated: Callable, run_cli: Run, run_folder: Path, tmp_path: Path
) -> None:
    before = sha256_of_file(run_folder / "best.safetensors")
    report, _ = evaluated(run_folder, "--save-thresholds")
    place = run_folder / "best.thresholds.json"
    assert report["thresholds_saved_in"] == str(place)
    assert json.loads(place.read_text())["weights_sha256"] == before == sha256_of_file(run_folder / "best.safetensors")
    saved = find_model(run_folder).load().spec.working_thresholds
    assert saved is not None and saved.overall == report["operating_points"]["best F1"]["all"]["threshold"]
    # Whatever names the weights finds them; so does what is made of them.
    file = run_folder / "best.safetensors"
    assert build_network(SHAPES_NETWORK, file).spec.working_thresholds == saved
    assert description_of(find_model(file)).working_thresholds == saved
    assert in_precision(build_network(SHAPES_NETWORK, file), "fp16").spec.working_thresholds == saved
    assert "best F1 on voc val" in run_cli("info", run_folder)[1]
    assert run_cli("convert", file, "--out", tmp_path / "other.pth")[0] == 0
    assert find_model(tmp_path / "other.pth").load().spec.working_thresholds == saved


def test_an_exported_file_has_those_of_its_run_folder(exported: Path) -> None:
    assert spec_of(exported).working_thresholds == CARRIED


def test_what_was_run_in_another_precision_is_kept_with_what_was_named(evaluated: Callable, run_folder: Path) -> None:
    report, _ = evaluated(run_folder, "--precision", "bf16", "--save-thresholds", "--limit", 2)
    assert report["thresholds_saved_in"] == str(run_folder / "best.thresholds.json")


def warnings_of(caplog: pytest.LogCaptureFixture, folder: Path) -> list[str]:
    assert find_model(folder).load().spec.working_thresholds is None
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_those_of_other_weights_are_left_out_with_a_warning(run_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_thresholds(find_model(run_folder), FOUND)
    network = find_model(run_folder).load()
    with_other_bytes = next(iter(network.parameters()))
    with_other_bytes.data += 1
    save_network(network, run_folder / "best.safetensors")
    (warning,) = warnings_of(caplog, run_folder)
    assert "saved for other weights than best.safetensors; save them again with `ssd-deploy eval" in warning
    # Once is enough.
    assert len(warnings_of(caplog, run_folder)) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '"a"', '{"weights_sha256": "a"}', '{"weights_sha256": "a", "overall": 2}',
     '{"weights_sha256": "a", "overall": 0.5, "new": 1}', '{"weights_sha256": "a", "overall": 0.5, "per_class": [1]}',
     '{"weights_sha256": "a", "overall": "b"}', "\udcff"],
)  # fmt: skip
def test_a_damaged_file_is_left_out_with_a_warning(
    run_folder: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (run_folder / "best.thresholds.json").write_bytes(text.encode(errors="surrogateescape"))
    (warning,) = warnings_of(caplog, run_folder)
    assert "best.thresholds.json: is left out, since it cannot be read" in warning


def test_those_of_classes_that_there_are_not_are_left_out(run_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_thresholds(find_model(run_folder), WorkingThresholds(overall=0.5, per_class={"cow": 0.5}))
    (warning,) = warnings_of(caplog, run_folder)
    assert "cow is no class of this detector" in warning


# --- Refused, before anything is run ---


@pytest.mark.parametrize("weights", [None, "shapes", "random", "random:3"])
def test_weights_without_a_file_of_their_own_are_refused(
    mistake: Mistake, shapes: Path, weights: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssd_deploy.model_source.ModelSource.load", lambda *_: pytest.fail("it was loaded"))
    name = SHAPES_NETWORK if weights else "ssd_300_mobilenet0.25_voc"
    given = ["--weights", weights] if weights else []
    line = mistake("eval", name, *given, "--data", shapes, "--split", "val", "--save-thresholds")
    assert f"{name} with {weights or 'published'} weights" in line and "ssd-deploy convert" in line


def test_a_place_that_cannot_be_written_is_refused(
    mistake: Mistake, shapes: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssd_deploy.model_source.ModelSource.load", lambda *_: pytest.fail("it was loaded"))
    (run_folder / "best.thresholds.json").mkdir()
    line = mistake("eval", run_folder, "--data", shapes, "--split", "val", "--save-thresholds")
    assert "best.thresholds.json: cannot be written (it is a folder)" in line
