"""What the engine inspector says, in the shapes of TensorRT 10 and 11, -> precision of the convolutions.

The layers are written by hand after NVIDIA's documentation of the engine inspector (10.16, 11.3) and its
guide from 10.x to 11.x.
"""

import re

import pytest

from export.engine.inspector import count_convolutions, precision_problems

UNKNOWN_FORMAT = "N/A due to dynamic shapes"
HALF_FORMAT = "Channel major FP16 format where channel % 8 == 0"
FLOAT_FORMAT = "Row major linear FP32"
HALF_WEIGHTS = {"Type": "Half", "Count": 9408}
FLOAT_WEIGHTS = {"Type": "Float", "Count": 9408}


def layer10(kind, inputs=(), outputs=(), **fields):
    """A layer as TensorRT 10 writes it: format and type are one text."""

    def tensors(formats):
        return [
            {"Name": f"t{i}", "Location": "Device", "Dimensions": [-1, 64, 75, 75], "Format/Datatype": text}
            for i, text in enumerate(formats)
        ]

    return {
        "Name": "node_conv2d_3 + node_relu_3",
        "LayerType": kind,
        "Inputs": tensors(inputs),
        "Outputs": tensors(outputs),
        "StreamId": 0,
        "Metadata": "",
    } | fields


def layer11(kind, inputs=(), outputs=(), **fields):
    """A layer as TensorRT 11 writes it: (type, format) stand apart."""

    def tensors(types):
        return [
            {"Name": f"t{i}", "Location": "Device", "Dimensions": [1, 64, 75, 75], "DataType": kind_, "Format": text}
            for i, (kind_, text) in enumerate(types)
        ]

    return layer10(kind, **fields) | {"Inputs": tensors(inputs), "Outputs": tensors(outputs)}


def engine(*layers):
    return {"Layers": list(layers), "Bindings": ["images", "boxes", "scores", "labels"]}


def metadata(*nodes):
    """The ONNX nodes of a fused kernel, which TensorRT sets apart with a unit separator."""
    return "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)


def counts(*layers):
    return count_convolutions(engine(*layers))


def test_an_engine_without_layers_has_no_convolution():
    assert count_convolutions({"Layers": [], "Bindings": []}) == {}
    assert count_convolutions({}) == {}


def test_the_type_of_the_weights_tells_where_formats_do_not():
    dynamic = [UNKNOWN_FORMAT]
    layer = layer10("CaskConvolution", dynamic, dynamic, ParameterType="Convolution", Weights=HALF_WEIGHTS)
    assert counts(layer) == {"fp16": 1}
    layer = layer10("CaskConvolution", dynamic, dynamic, ParameterType="Convolution", Weights=FLOAT_WEIGHTS)
    assert counts(layer) == {"fp32": 1}


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Int8", "int8"),
        (HALF_FORMAT, "fp16"),
        ("Row major linear FP16 format", "fp16"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        (FLOAT_FORMAT, "fp32"),
        ("Row major linear FP32 format (kLINEAR)", "fp32"),
        ("Channel major FP32 format", "fp32"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        (UNKNOWN_FORMAT, "unknown"),
        ("", "unknown"),
    ],
)
def test_formats_of_tensorrt_10_are_understood(text, precision):
    assert counts(layer10("CaskConvolution", [text], [text])) == {precision: 1}


@pytest.mark.parametrize(
    ("kind", "text", "precision"),
    [
        ("Half", "Channel major FP16 format where channel % 8 == 0 (kHWC8)", "fp16"),
        ("Float", "Row major linear FP32 format (kLINEAR)", "fp32"),
        # A format of eight channels says nothing of the type where shapes are dynamic.
        ("Half", UNKNOWN_FORMAT, "fp16"),
        ("Float", UNKNOWN_FORMAT, "fp32"),
        ("", "Row major linear FP32 format (kLINEAR)", "fp32"),
    ],
)
def test_types_of_tensorrt_11_are_understood(kind, text, precision):
    assert counts(layer11("CaskConvolution", [(kind, text)], [(kind, text)])) == {precision: 1}


def test_inputs_and_outputs_of_a_tensorrt_11_engine_are_no_layers():
    information = {
        "Layers": [layer11("CaskConvolution", [("Half", UNKNOWN_FORMAT)], [("Half", UNKNOWN_FORMAT)])],
        "I/O Tensors": [
            {
                "Name": "images",
                "IOMode": "Input",
                "DataType": "Float",
                "Dimensions": [-1, 3, 300, 300],
                "Location": "Device",
                "IsShapeInferenceIO": False,
                "ProfileInfo": [{"MinShape": [1, 3, 300, 300], "Format": "Row major linear FP32 format (kLINEAR)"}],
            }
        ],
    }
    assert count_convolutions(information) == {"fp16": 1}


def test_layers_that_are_names_alone_tell_nothing():
    assert count_convolutions({"Layers": ["node_conv2d_3 + node_relu_3", "node_softmax"]}) == {}


@pytest.mark.parametrize("kind", ["CaskConvolution", "Convolution", "correlation", "CaskConvActPool", "conv"])
def test_convolutions_are_known_by_their_kind(kind):
    assert counts(layer10(kind, ["Half"], ["Half"])) == {"fp16": 1}


@pytest.mark.parametrize("kind", ["fusion", "kgen", "gemm"])
def test_a_fused_kernel_is_a_convolution_where_its_metadata_names_one(kind):
    fused = layer10(
        kind, ["Half"], ["Half"], Name="__myl_ConvAddRelu", Metadata=metadata("node_conv2d_3", "node_relu_3")
    )
    other = layer10(kind, ["Float"], ["Float"], Name="__myl_ExpMul", Metadata=metadata("node_exp", "node_mul_7"))
    assert counts(fused, other) == {"fp16": 1}


@pytest.mark.parametrize("kind", ["Reformat", "NoOp", "Constant"])
def test_what_moves_a_convolutions_values_is_none(kind):
    layer = layer10(kind, ["Float"], ["Half"], Metadata=metadata("node_conv2d_3"), ParameterType=kind)
    assert counts(layer) == {}


def test_other_layers_are_not_counted():
    assert (
        counts(
            layer10("SoftMax", ["Float"], ["Float"], Name="node_softmax", Metadata=metadata("node_softmax")),
            layer10("TopK", ["Float"], ["Float"], Name="node_topk"),
            layer10("CaskPooling", ["Half"], ["Half"], Name="node_max_pool2d", Metadata=metadata("node_max_pool2d")),
            layer10("PointWiseV2", ["Float"], ["Float"], Name="PWN(node_exp)", Metadata=metadata("node_exp")),
        )
        == {}
    )


def test_the_input_decides_where_a_cast_was_fused_behind():
    # The last predictors: half-precision products, widened to float32 on their way out.
    assert counts(layer10("CaskConvolution", ["Half"], ["Float"])) == {"fp16": 1}


def test_precisions_are_counted_apart():
    information = engine(
        layer10("CaskConvolution", [HALF_FORMAT], [HALF_FORMAT], Weights=HALF_WEIGHTS),
        layer10("CaskConvolution", [UNKNOWN_FORMAT], [UNKNOWN_FORMAT], Weights=HALF_WEIGHTS),
        layer10("correlation", [FLOAT_FORMAT], [FLOAT_FORMAT]),
        layer10("CaskConvolution", [UNKNOWN_FORMAT], [UNKNOWN_FORMAT]),
        "a name alone",
        layer10("SoftMax", [FLOAT_FORMAT], [FLOAT_FORMAT], Name="node_softmax"),
    )
    assert count_convolutions(information) == {"fp16": 2, "fp32": 1, "unknown": 1}


# What the inspector says of layers that tempt to a wrong answer.


def test_bfloat16_is_neither_half_nor_float():
    assert counts(layer10("CaskConvolution", ["BFloat16"], ["BFloat16"])) == {"bf16": 1}
    assert counts(layer10("CaskConvolution", ["Row major linear BF16"], ["Row major linear BF16"])) == {"bf16": 1}
    assert counts(layer10("CaskConvolution", ["x"], ["x"], Weights={"Type": "BFloat16", "Count": 1})) == {"bf16": 1}


def test_the_output_does_not_stand_for_an_input_that_is_unknown():
    # Half-precision products whose widening was fused behind them: float32 outputs say nothing of the products.
    assert counts(layer10("CaskConvolution", [UNKNOWN_FORMAT], ["Float"])) == {"unknown": 1}


def test_an_images_rounding_fused_in_front_is_no_float32_convolution():
    # The first kernel of a half-precision network may take float32 images and round them itself.
    first = layer10("fusion", ["Float"], ["Half"], Name="__myl_CastConvRelu", Metadata=metadata("node_conv2d"))
    assert "fp32" not in counts(first)


def test_a_kernel_that_only_moves_or_casts_for_a_convolution_is_none():
    # Such kernels carry the name of the convolution that they work for.
    move = layer10("kgen", ["Float"], ["Half"], Name="__myl_Cast_myl0_1", Metadata=metadata("node_conv2d_3"))
    assert "fp32" not in counts(move)


def test_the_kernels_name_tells_where_nothing_else_does():
    half = "sm80_xmma_fprop_implicit_gemm_indexed_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x64_stage3"
    single = "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize128x128x8_stage3"
    tf32 = "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16_stage4"
    found = [
        counts(layer10("CaskConvolution", [UNKNOWN_FORMAT], [UNKNOWN_FORMAT], TacticName=name))
        for name in (half, single, tf32)
    ]
    assert found == [{"fp16": 1}, {"fp32": 1}, {"tf32": 1}]


@pytest.mark.parametrize("node", ["node_converted_4", "node_conversion"])
def test_a_name_that_merely_begins_so_is_no_convolution(node):
    assert counts(layer10("kgen", ["Float"], ["Float"], Name="__myl_Move", Metadata=metadata(node))) == {}


# What is said of the counts.


@pytest.mark.parametrize(
    ("precision", "found"),
    [
        ("fp32", {"fp32": 60}),
        ("fp16", {"fp16": 60, "unknown": 3}),
        ("tf32", {"tf32": 40, "fp32": 20}),
        # Allowed, not asked for: a card without it computes in float32.
        ("tf32", {"fp32": 60}),
        ("int8", {"int8": 60}),
        ("int8", {"int8": 1, "fp16": 2, "fp32": 3, "tf32": 4, "unknown": 5}),
    ],
)
def test_convolutions_as_the_precision_allows_are_no_problem(precision, found):
    assert precision_problems(precision, found) == ()


@pytest.mark.parametrize(
    ("precision", "found", "words"),
    [
        ("fp32", {"fp32": 58, "tf32": 2}, "asked for fp32, but TensorRT built convolutions otherwise: 2 in tf32"),
        ("fp16", {"fp32": 1, "fp16": 1, "bf16": 2}, "otherwise: 1 in fp32, 2 in bf16"),
        ("int8", {"fp16": 60}, "asked for int8, but TensorRT built none of the 60 convolutions in it"),
        ("int8", {"fp8": 60}, "otherwise: 60 in fp8"),
        ("a precision to come", {"fp16": 1}, "asked for a precision to come, but .* 1 in fp16"),
        ("fp16", {"unknown": 60}, "does not tell"),
        ("fp16", {}, "does not tell"),
        ("int8", None, "does not tell"),
    ],
)
def test_other_convolutions_and_none_at_all_are_a_problem(precision, found, words):
    (problem,) = precision_problems(precision, found)
    assert re.search(words, problem)
