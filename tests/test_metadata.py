"""Every entry of a file's metadata is what it should be, or one sentence says which is not."""

import dataclasses
import json
import time

import pytest

from export.file_metadata import CPU_GRAPH_KEY, INT8_KEY, Int8Target, Quantization, check_runs_here, describe_metadata
from ssd_train.errors import ModelError, SpecError
from ssd_train.spec import MAX_NAME, DetectorSpec, WorkingThresholds, check_class_names, name_fault

SPEC = DetectorSpec(
    network="ssd_300_vgg16_atrous_custom",
    class_names=("a", "b"),
    input_size=(300, 301),
    weights_sha256="ab" * 32,
    working_thresholds=WorkingThresholds(overall=0.5, per_class={"a": 0.4}),
)
QUANTIZATION = Quantization(
    target=Int8Target.PORTABLE, method="minmax", images=4, images_sha256="x", float_layers=("c",)
)
WHOLE = SPEC.to_metadata() | QUANTIZATION.to_metadata()

# Of no entry's type.
WRONG = [
    "",
    "null",
    "true",
    "[" * 100_000,
    '{"a": 1',
    "NaN",
    "1e999",
    "9" * 400,
    "9" * 5000,
    '[[["x"]]]',
    b"\xff",
    5,
    None,
]
OF_ENTRY = {
    "class_names": ['"ab"', "[]", '["a", 1]', '["a", "a"]', '["a", ""]', r'["a\ud800", "b"]', r'["a\u0000", "b"]',
                    "{}"],
    "input_size": ["300", "[300]", "[300, 300, 3]", "[300.0, 300.0]", "[-300, 300]", "[0, 300]", "[300, 1e9]",
                   "[300, 99999999]", "[true, true]", '["300", "300"]'],
    "mean": ["0.5", "[0, 1]", "[NaN, 0, 0]", "[1e300, 0, 0]", '["0", "0", "0"]', "[true, true, true]", "{}"],
    "std": ["[0, 0, 0]", "[1, 1, -1]", "[1e-300, 1, 1]", "[1e300, 1, 1]", "[1, 1]"],
    "score_threshold": ["1", "-0.1", '"0.1"'],
    "nms_iou_threshold": ["0", "1"],
    "pre_nms_top_k": ["0", "100000", "1.5"],
    "max_detections": ["0", "401", "1e2"],
    "versions": ["[]", '{"torch": 2}', '"x"', r'{"torch": "\ud800"}'],
    "network": ["../../x", "a/b", "a\nb", "x" * 5000, ""],
    "precision": ["../x", "\0"],
    "resize": ["bilinear", "x" * 10_000],
    "weights_sha256": ["x", "AB" * 32, "ab" * 31],
    "working_thresholds": ["[]", '{"overall": 2}', '{"overall": "x"}', "{}", '{"overall": 0.5, "per_class": [1]}',
                           '{"overall": 0.5, "per_class": {"zebra": 0.5}}'],
}  # fmt: skip
# Text may be anything else.
OF_TEXT = ("network", "precision", "resize", "weights_sha256")
CASES = [
    *((key, text) for key, texts in OF_ENTRY.items() for text in texts),
    *((key, text) for key in OF_ENTRY if key not in OF_TEXT for text in WRONG),
]


def _is_a_sentence(error: ModelError, key: str) -> bool:
    text = str(error)
    return text.startswith("a.onnx: its metadata") and key in text and text.isprintable() and len(text) < 1000


@pytest.mark.parametrize(("key", "text"), CASES, ids=lambda value: ascii(value)[:40])
def test_an_entry_of_another_type_or_out_of_range_is_one_sentence(key: str, text: str) -> None:
    DetectorSpec.from_metadata(WHOLE, "a.onnx")
    with pytest.raises(ModelError) as caught:
        DetectorSpec.from_metadata({**WHOLE, key: text}, "a.onnx")
    # What contradicts itself is called by what it is.
    assert _is_a_sentence(caught.value, "")


@pytest.mark.parametrize("key", QUANTIZATION.to_metadata())
@pytest.mark.parametrize("text", [*WRONG, "x"], ids=lambda value: ascii(value)[:40])
def test_what_is_said_of_a_calibration_is_checked_too(key: str, text: str) -> None:
    if key in ("calibration_method", "calibration_sha256") and isinstance(text, str):
        return
    with pytest.raises(ModelError) as caught:
        describe_metadata({**WHOLE, key: text}, "a.onnx")
    assert _is_a_sentence(caught.value, key)
    without = {name: value for name, value in WHOLE.items() if name != key}
    if key != INT8_KEY:
        with pytest.raises(ModelError, match=f"no entry '{key}'"):
            describe_metadata(without, "a.onnx")


@pytest.mark.parametrize("text", [*WRONG, "[]", "x", '{"onnxruntime": 1}'], ids=lambda value: ascii(value)[:40])
def test_the_cpu_that_a_file_was_made_for_is_checked_too(text: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_runs_here({CPU_GRAPH_KEY: text}, "a.onnx", "1.30.0", on_cpu=True)
    assert _is_a_sentence(caught.value, CPU_GRAPH_KEY)


def test_a_cpu_of_missing_keys_is_another_one() -> None:
    with pytest.raises(ModelError, match="for another CPU .* None, here"):
        check_runs_here({CPU_GRAPH_KEY: "{}"}, "a.onnx", "1.30.0", on_cpu=True)


@pytest.mark.parametrize(
    "name", ["a\ud800", "\udfff", "a\0b", "a\nb", "a\x85", "\u2028x", "", " ", "x" * (MAX_NAME + 1), 5, None, b"a"]
)
def test_a_name_that_is_no_text_to_show_is_refused(name: str) -> None:
    assert name_fault(name)
    with pytest.raises(SpecError) as caught:
        check_class_names(("a", name))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["weiße Zelle", "猫", "قطة", "👩‍👩‍👧", "a\u200db", "x" * MAX_NAME, "$a_{", "<b>&"])
def test_names_of_any_script_are_names(name: str) -> None:
    assert check_class_names(("a", name))


def test_a_class_list_is_checked_in_linear_time() -> None:
    def seconds(count: int) -> float:
        names = tuple(f"class {index}" for index in range(count))
        per_class = dict.fromkeys(names, 0.5)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            spec = DetectorSpec(
                network="n",
                class_names=names,
                input_size=(300, 300),
                working_thresholds=WorkingThresholds(overall=0.5, per_class=per_class),
            )
            DetectorSpec.from_metadata(spec.to_metadata(), "a.onnx")
            best = min(best, time.perf_counter() - start)
        return best

    # Sixteen times the time where it is quadratic, four where it is linear.
    assert seconds(40_000) < 9 * seconds(10_000)


def test_weights_in_a_folder_whose_name_is_no_text_can_be_described() -> None:
    spec = dataclasses.replace(
        SPEC, weights="trained on \udcff", working_thresholds=WorkingThresholds(overall=0.5, found_by="\udcfe")
    )
    assert DetectorSpec.from_metadata(spec.to_metadata(), "a.onnx") == spec
    assert all(text.encode() for text in spec.to_metadata().values())


def test_of_many_repeated_names_the_first_are_said() -> None:
    names = [f"class {index}" for index in range(20_000)]
    with pytest.raises(SpecError) as caught:
        check_class_names((*names, *names))
    assert len(str(caught.value)) < 300


def test_thresholds_of_any_length_are_json() -> None:
    assert json.loads(WHOLE["working_thresholds"])["per_class"] == {"a": 0.4}
