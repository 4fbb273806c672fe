"""Headers of weight files and thresholds beside them: of the declared types, or one sentence or warning."""

import json
from pathlib import Path

import pytest

from ssd_train.errors import WeightsError
from ssd_train.weights.description import describe_weights
from ssd_train.weights.thresholds_file import read_thresholds, thresholds_path

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS = {
    "a list": "[]",
    "deep": '{"a": ' + "[" * 100_000,
    "a number of 400 digits": json.dumps({"a": ENTRY | {"shape": [10**400]}}),
    "a size of 2^64": json.dumps({"a": ENTRY | {"shape": [2**64]}}),
    "a negative size": json.dumps({"a": ENTRY | {"shape": [-1]}}),
    "a size that is text": json.dumps({"a": ENTRY | {"shape": ["1"]}}),
    "offsets that are none": json.dumps({"a": ENTRY | {"data_offsets": [0]}}),
    "no kind": json.dumps({"a": {"shape": [1], "data_offsets": [0, 4]}}),
    "an entry that is none": json.dumps({"a": 5}),
    "a tensor twice": f'{{"a": {json.dumps(ENTRY)}, "a": {json.dumps(ENTRY)}}}',
    "NaN": '{"a": NaN}',
    "no UTF-8": '{"\ud800": 1}',
    "metadata that are a list": '{"__metadata__": [1]}',
    "metadata of numbers": '{"__metadata__": {"network": 5}}',
}
CLASSES = ["", "x", "5", "[]", "{}", "[1]", '["a", "a"]', '[""]', r'["a\ud800"]', r'["a\u0000"]', "[" * 100_000]


def weight_file(path: Path, header: str) -> Path:
    data = header.encode(errors="surrogatepass")
    path.write_bytes(len(data).to_bytes(8, "little") + data + bytes(4))
    return path


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_of_other_types_is_one_sentence(header: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"w\.safetensors: ") as caught:
        describe_weights(weight_file(tmp_path / "w.safetensors", header))
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", CLASSES, ids=lambda text: text[:20])
def test_a_class_list_that_is_none_is_one_sentence(classes: str, tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"network": "n", "class_names": classes}, "a": ENTRY})
    with pytest.raises(WeightsError, match="its class list cannot be used .*convert it again") as caught:
        describe_weights(weight_file(tmp_path / "w.safetensors", header))
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"overall": 2}', '{"overall": "x"}', '{"overall": 0.5, "per_class": [1]}', "[" * 100_000,
     '{"overall": 0.5, "per_class": {"a": NaN}}', '{"overall": true}', f'{{"overall": {"9" * 5000}}}',
     '{"overall": 0.5, "weights_sha256": [1]}', '{"overall": 0.5, "per_class": {"b": 0.1}}'],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_thresholds_that_cannot_be_used_are_left_out_with_a_warning(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"w")
    thresholds_path(weights).write_text(text, encoding="utf-8")
    assert read_thresholds(weights, ("a",), "c" * 64) is None
    assert "is left out, since" in caplog.text
