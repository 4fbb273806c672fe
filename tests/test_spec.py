import dataclasses

import pytest

from ssd_train.errors import ModelError, SpecError
from ssd_train.spec import DetectorSpec, PostprocessSettings, check_class_names

SPEC = DetectorSpec(
    network="ssd_300_vgg16_atrous_custom",
    class_names=("red, cell", "weiße Zelle"),
    input_size=(300, 301),
    postprocess=PostprocessSettings(score_threshold=0.1, nms_iou_threshold=0.6, pre_nms_top_k=300, max_detections=50),
    weights="cells.pt",
    weights_sha256="ab" * 32,
    versions={"torch": "2.9"},
)


def test_metadata_is_flat_text_and_reads_back_equal() -> None:
    metadata = SPEC.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata["input_size"] == "[300, 301]"
    assert metadata["score_threshold"] == "0.1"
    assert DetectorSpec.from_metadata({**metadata, "producer": "someone"}, "a.onnx") == SPEC


@pytest.mark.parametrize(
    "key",
    # clip_boxes is left out where boxes are not clipped, as they were not before there was a choice.
    [field.name for field in dataclasses.fields(PostprocessSettings) if field.name != "clip_boxes"]
    + ["mean", "versions"],
)
def test_a_missing_entry_names_the_file_and_the_entry(key: str) -> None:
    metadata = SPEC.to_metadata()
    del metadata[key]
    with pytest.raises(ModelError, match=f"a.onnx.*{key}.*ssd-deploy export"):
        DetectorSpec.from_metadata(metadata, "a.onnx")


@pytest.mark.parametrize(
    ("key", "text"),
    [("input_size", "300"), ("mean", "[0, 1]"), ("class_names", "[]"), ("score_threshold", "x"), ("versions", "{")],
)
def test_an_unusable_entry_names_the_file(key: str, text: str) -> None:
    with pytest.raises(ModelError, match="a.onnx: its metadata cannot be used"):
        DetectorSpec.from_metadata({**SPEC.to_metadata(), key: text}, "a.onnx")


@pytest.mark.parametrize(
    "values",
    [
        {"score_threshold": 1.0},
        {"score_threshold": -0.1},
        {"nms_iou_threshold": 0.0},
        {"nms_iou_threshold": 1.0},
        {"pre_nms_top_k": 0},
        {"pre_nms_top_k": 3841},
        {"max_detections": 0},
        {"max_detections": 401},
    ],
)
def test_settings_outside_their_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        PostprocessSettings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"input_size": (0, 300)},
        {"std": (0.2, 0.0, 0.2)},
        {"mean": (0.1, float("nan"), 0.1)},
        {"resize": "bilinear"},
        {"class_names": ()},
    ],
)
def test_a_description_that_makes_no_sense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        dataclasses.replace(SPEC, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [(), ("",), ("a", " "), ("a", "b", "a")])
def test_class_lists_are_not_empty_and_repeat_nothing(names: tuple[str, ...]) -> None:
    with pytest.raises(SpecError):
        check_class_names(names)
