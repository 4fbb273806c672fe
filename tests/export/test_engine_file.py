"""The JSON beside a plan: written and read back whole, or refused in one sentence."""

import dataclasses
import json

import pytest

from export.engine.cache import building, save_timing_cache, write_engine
from export.engine.file import BuildOptions, EngineInfo, TensorInfo, engine_name, info_path, read_info, write_info
from ssd_train.errors import BackendError, ModelError
from ssd_train.options import about
from ssd_train.spec import DetectorSpec, PostprocessSettings

# No value is a default, so that a field that is not read back shows.
SPEC = DetectorSpec(
    network="ssd_512_resnet50_v1_custom",
    class_names=("bolt", "Mutter ü"),
    input_size=(512, 480),
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    postprocess=PostprocessSettings(score_threshold=0.02, nms_iou_threshold=0.55, pre_nms_top_k=300, max_detections=50),
    precision="fp16",
    weights="best.pt",
    weights_sha256="a" * 64,
    versions={"torch": "2.11.0", "onnx": "1.18.0"},
)
OPTIONS = BuildOptions(
    min_batch=2,
    opt_batch=4,
    max_batch=16,
    allow_tf32=True,
    workspace_mib=512,
    optimization_level=5,
    target_sm=(75, 120),
    version_compatible=True,
    hardware_compatible=True,
)
# Decides whether an engine is accepted, and is no part of what one is.
NOT_KEPT = {"strict"}
INFO = EngineInfo(
    flavour="tensorrt",
    tensorrt_version="10.16.1",
    spec=SPEC,
    options=OPTIONS,
    inputs={"images": TensorInfo(dtype="FLOAT", shape=(-1, 3, 512, 480))},
    outputs={
        "boxes": TensorInfo(dtype="FLOAT", shape=(-1, 50, 4)),
        "labels": TensorInfo(dtype="INT64", shape=(-1, 50)),
    },
    gpu="NVIDIA L4",
    compute_capability="8.9",
    onnx_sha256="b" * 64,
    plan_sha256="c" * 64,
    size_bytes=1234,
    build_seconds=5.678,
    layer_precisions={"fp16": 60, "unknown": 1},
    warnings=("first", "second"),
)


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "x.engine"
    path.write_bytes(b"plan")
    write_info(path, INFO)
    return path


def values_of(engine):
    return json.loads(info_path(engine).read_text(encoding="utf-8"))


def test_every_field_is_read_back(engine):
    defaults = {field.name: field.default for field in dataclasses.fields(BuildOptions)}
    assert {name for name, default in defaults.items() if getattr(OPTIONS, name) == default} == NOT_KEPT
    assert read_info(engine) == INFO


def test_whether_it_was_to_be_refused_is_no_part_of_an_engine(engine):
    write_info(engine, dataclasses.replace(INFO, options=dataclasses.replace(OPTIONS, strict=True)))
    assert "strict" not in values_of(engine)["options"] and read_info(engine) == INFO


def test_what_is_unknown_is_read_back_as_unknown(engine):
    bare = dataclasses.replace(
        INFO, gpu=None, compute_capability=None, layer_precisions=None, warnings=(), options=BuildOptions()
    )
    write_info(engine, bare)
    assert read_info(engine) == bare


def test_types_survive_json_that_knows_no_tuples(engine):
    info = read_info(engine)
    assert isinstance(info.options.target_sm, tuple) and isinstance(info.warnings, tuple)
    assert isinstance(info.inputs["images"].shape, tuple) and isinstance(info.spec.class_names, tuple)
    # Options decide the name of a cached engine, so they must be what they were in a set too.
    assert hash(info.options) == hash(OPTIONS)


def test_the_json_can_be_read_by_a_person(engine):
    assert info_path(engine).name == "x.engine.json" and info_path(engine).parent == engine.parent
    text = info_path(engine).read_text(encoding="utf-8")
    values = json.loads(text)
    assert "Mutter ü" in text and text.count("\n") > 40
    assert values["flavour"] == "tensorrt" and values["options"]["max_batch"] == 16
    assert values["inputs"] == {"images": {"dtype": "FLOAT", "shape": [-1, 3, 512, 480]}}
    assert values["spec"]["postprocess"]["max_detections"] == 50 and values["spec"]["precision"] == "fp16"


def test_the_plan_is_left_as_tensorrt_wrote_it(engine):
    assert engine.read_bytes() == b"plan"
    assert sorted(path.name for path in engine.parent.iterdir()) == ["x.engine", "x.engine.json"]


def test_an_engine_is_named_after_network_precision_and_flavour():
    assert engine_name(SPEC, "tensorrt-rtx") == "ssd_512_resnet50_v1_custom.fp16.tensorrt-rtx.engine"


def test_a_missing_plan_is_said(engine):
    engine.unlink()
    with pytest.raises(ModelError, match=r"x\.engine: there is no such engine file; .*--format tensorrt"):
        read_info(engine)


def test_a_folder_is_no_plan(tmp_path):
    with pytest.raises(ModelError, match="there is no such engine file"):
        read_info(tmp_path)


def test_a_missing_json_is_said(engine):
    info_path(engine).unlink()
    with pytest.raises(ModelError, match=r"x\.engine\.json: the description .* is missing; keep both files together"):
        read_info(engine)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"3", b'"text"', b"{}", b'{"spec": null}', b'{"spec": {}}', b"\xff\xfe\x00", b"plan"],
    ids=repr,
)
def test_a_garbled_json_is_one_clear_error(engine, content):
    info_path(engine).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_info(engine)
    message = str(caught.value)
    assert message.startswith(str(info_path(engine))) and "build the engine again" in message
    assert "\n" not in message


CHANGES = {
    "a key too many within": lambda values: values | {"spec": values["spec"] | {"colour": "red"}},
    "a text for a number": lambda values: values | {"size_bytes": "1234"},
    "an option too few": lambda values: values | {"options": {"max_batch": 8}},
    "a key too many": lambda values: values | {"colour": "red"},
    "a key too few": lambda values: {key: value for key, value in values.items() if key != "plan_sha256"},
    "no outputs": lambda values: {key: value for key, value in values.items() if key != "outputs"},
    "a foreign option": lambda values: values | {"options": values["options"] | {"fp16": True}},
    "options that contradict each other": lambda values: values | {"options": values["options"] | {"min_batch": 99}},
    "options that are a list": lambda values: values | {"options": [1, 2]},
    "a tensor without a shape": lambda values: values | {"inputs": {"images": {"dtype": "FLOAT"}}},
    "tensors that are a list": lambda values: values | {"inputs": ["images"]},
    "a spec without classes": lambda values: values | {"spec": values["spec"] | {"class_names": []}},
    "a spec without a threshold": lambda values: (
        values | {"spec": values["spec"] | {"postprocess": {"score_threshold": 0.5}}}
    ),
    "a spec that is a text": lambda values: values | {"spec": "ssd"},
    "warnings that are nothing": lambda values: values | {"warnings": None},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_json_of_somebody_else_is_one_clear_error(engine, change):
    info_path(engine).write_text(json.dumps(change(values_of(engine))), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        read_info(engine)
    message = str(caught.value)
    assert message.startswith(str(info_path(engine))) and "ssd-deploy export" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_batch": 0}, "min_batch 0: expected 1 to 65536"),
        ({"max_batch": 0}, "max_batch 0: expected 1 to 65536"),
        ({"max_batch": 65537}, "max_batch 65537: expected 1 to 65536"),
        ({"min_batch": 2, "opt_batch": 1}, "min 2, opt 1, max 8 are not in rising order"),
        ({"min_batch": 9}, "min 9, opt 9, max 8 are not in rising order"),
        ({"opt_batch": 9}, "min 1, opt 9, max 8 are not in rising order"),
        ({"min_batch": -1, "opt_batch": -1, "max_batch": -1}, "min_batch -1: expected 1"),
        ({"workspace_mib": 0}, "workspace_mib 0: expected 1 to 16777216"),
        ({"workspace_mib": -5}, "workspace_mib -5: expected"),
        ({"optimization_level": -1}, "optimization_level -1: expected 0 to 5"),
        ({"optimization_level": 6}, "optimization_level 6: expected 0 to 5"),
        ({"target_sm": (75, 89, 75)}, "75, 89, 75 names one twice"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(BackendError, match=message) as caught:
        BuildOptions(**options)
    assert set(options) <= set(caught.value.arguments) or caught.value.arguments == (next(iter(options)),)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_batch": 1, "opt_batch": 1, "max_batch": 1},
        {"min_batch": 8, "opt_batch": 8, "max_batch": 8},
        {"workspace_mib": 1},
        {"optimization_level": 0},
        {"optimization_level": 5},
        {"target_sm": (75, 80)},
    ],
)
def test_options_at_the_ends_of_their_range_are_taken(options):
    built = BuildOptions(**options)
    assert {name: getattr(built, name) for name in options} == options


def test_an_engine_is_tuned_for_its_smallest_batch_unless_another_is_named():
    assert BuildOptions(min_batch=3).opt_batch == 3 and BuildOptions(min_batch=3, opt_batch=4).opt_batch == 4
    assert BuildOptions(min_batch=3) == BuildOptions(min_batch=3, opt_batch=3)


def test_every_option_says_what_it_means():
    assert all(about(field) and about(field).help.endswith(".") for field in dataclasses.fields(BuildOptions))


def test_tf32_is_off_unless_asked_for():
    assert BuildOptions().allow_tf32 is False and BuildOptions().workspace_mib is None


class _Measured:
    """A builder's configuration with measurements to keep."""

    def get_timing_cache(self):
        return self

    def serialize(self):
        return b"measured"


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("name", ["engines/x.engine", "engines/x.engine.json", "timing/x.cache"])
def test_a_cache_is_not_written_through_a_link(tmp_path, name, is_there):
    victim, cache = tmp_path / "victim", tmp_path / "cache"
    if is_there:
        victim.write_text("mine")
    (cache / name).parent.mkdir(parents=True)
    (cache / name).symlink_to(victim)
    write_engine(cache, "x.engine", b"plan", INFO)
    save_timing_cache(_Measured(), cache / "timing" / "x.cache")
    assert victim.read_text() == "mine" if is_there else not victim.exists()
    assert not (cache / name).is_symlink() and (cache / name).stat().st_size > 0
    assert (cache / "engines" / "x.engine").read_bytes() == b"plan"


def test_a_lock_that_is_a_link_is_not_opened(tmp_path, caplog):
    victim, locks = tmp_path / "victim", tmp_path / "cache" / "locks"
    victim.write_text("mine")
    locks.mkdir(parents=True)
    (locks / "x.engine.lock").symlink_to(victim)
    with building(tmp_path / "cache", "x.engine"):
        pass
    assert victim.read_text() == "mine" and "building without a lock" in caplog.text
