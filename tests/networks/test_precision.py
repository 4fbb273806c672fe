"""Half-precision networks: as close as rounding allows, and float32 where squares would leave the range."""

import copy

import pytest
import torch
from torch import nn

from ssd_train import build_network
from ssd_train.errors import NetworkError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.precision import InFloat32
from ssd_train.networks.vgg_atrous import L2Normalize
from ssd_train.networks.zoo import NETWORKS, network_config
from ssd_train.precisions import in_precision

pytestmark = pytest.mark.slow  # every network of the table, rounded

SMALL = "ssd_300_mobilenet0.25_voc"
VGG = "ssd_300_vgg16_atrous_voc"

# A value that is rounded to p bits is off by at most 2^-p of itself: 11 bits in fp16, 8 in bf16. Some thirty
# layers add up the roundings of their weights and of their inputs at random, so as a root of their number, and the
# largest of 50 000 outputs lies at about four times the typical one: (2 * 30)^0.5 * 4 * 2^-11 of the spread.
TOLERANCES = {"fp16": 1.5e-2, "bf16": 1.2e-1}

LARGEST_HALF = 65504


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Several threads that wait for each other are many times slower where other jobs share the cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small():
    return with_worn_norms(build_network(SMALL, weights="random:3"))


@pytest.fixture(scope="module")
def vgg():
    return build_network(VGG, weights="random:3")


def with_worn_norms(network):
    """Give batch norms statistics of their own, since fresh ones (mean 0, variance 1) multiply by 1."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.7, 1.4, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return network


def images_of(network, count=1, seed=0):
    return torch.randn(count, 3, *network.config.input_size, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def predict(network, images):
    return network(images)


def differences(got, expected):
    """Largest difference of logits and of offsets, in relation to the spread of the expected ones."""
    return [float((one - other).abs().max() / other.std()) for one, other in zip(got, expected, strict=True)]


def state_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_predictions_differ_by_rounding_alone(small, precision):
    images = images_of(small, 2)
    expected, got = predict(small, images), predict(in_precision(small, precision), images)
    assert [value.dtype for value in got] == [torch.float32, torch.float32]
    assert [value.shape for value in got] == [value.shape for value in expected]
    worst = max(differences(got, expected))
    assert worst < TOLERANCES[precision]
    # Something was rounded: float32 in disguise would differ by 1e-6.
    assert worst > TOLERANCES[precision] / 100


def test_bfloat16_is_coarser_than_half(small):
    images = images_of(small)
    expected = predict(small, images)
    half, brain = (max(differences(predict(in_precision(small, p), images), expected)) for p in ("fp16", "bf16"))
    # Three bits of mantissa less: eight times in theory.
    assert 3 < brain / half < 20


def test_the_network_that_was_passed_is_not_changed(small):
    before, text, spec = state_of(small), str(small), small.spec
    images = images_of(small)
    expected = predict(small, images)
    rounded = in_precision(small, "fp16")
    predict(rounded, images)
    assert rounded is not small and str(small) == text and small.spec == spec
    after = small.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == before[name].dtype for name in before)
    for one, other in zip(predict(small, images), expected, strict=True):
        assert torch.equal(one, other)


def test_fp32_is_the_network_itself(small):
    assert in_precision(small, "fp32") is small


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_it_computes_in_is_part_of_its_description(small, precision):
    rounded = in_precision(small, precision)
    assert (
        rounded.spec.precision == precision
        and rounded.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    )
    assert rounded.spec.weights_sha256 == small.spec.weights_sha256 and rounded.config == small.config
    assert not rounded.training


@pytest.mark.parametrize("name", [SMALL, VGG])
def test_convolutions_alone_are_rounded(name):
    rounded = in_precision(build_ssd(network_config(name)), "fp16")
    convolutions = [module for module in rounded.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) > 20
    assert {parameter.dtype for each in convolutions for parameter in each.parameters()} == {torch.float16}
    of_convolutions = {id(parameter) for each in convolutions for parameter in each.parameters()}
    others = [value for value in rounded.state_dict(keep_vars=True).values() if id(value) not in of_convolutions]
    assert {value.dtype for value in others} == {torch.float32}
    assert rounded.anchors.dtype == torch.float32


def test_every_convolution_computes_on_half_precision_values_and_images_stay_float32(small):
    rounded = in_precision(small, "fp16")
    seen = set()
    for module in rounded.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: seen.add((inputs[0].dtype, output.dtype)))
    images = images_of(small)
    predict(rounded, images)
    assert seen == {(torch.float16, torch.float16)}
    assert images.dtype == torch.float32
    with pytest.raises(NetworkError, match=r"\(N, 3, 300, 300\)"):
        rounded(torch.zeros(1, 3, 299, 300))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith("_voc") and "vgg" not in name])
def test_batch_norms_are_folded_away_where_a_convolution_stands_in_front(name):
    with torch.device("meta"):
        plain = build_ssd(network_config(name)).to("meta")
    before = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(before) > 20
    if name != "ssd_512_resnet101_v2_voc":
        # Folding is arithmetic on weights; zeros do, and take no time to draw.
        rounded = in_precision(plain.to_empty(device="cpu").requires_grad_(False).apply(zero), "fp16")
        assert not [module for module in rounded.modules() if isinstance(module, nn.BatchNorm2d)]


def zero(module):
    for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        value.zero_()


def test_the_norms_of_resnet_v2_that_follow_a_sum_stay_float32():
    network = build_ssd(network_config("ssd_512_resnet101_v2_voc"))
    rounded = in_precision(network, "fp16")
    islands = {name: module.layer for name, module in rounded.named_modules() if isinstance(module, InFloat32)}
    norms = [module for module in rounded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert set(map(id, islands.values())) == set(map(id, norms))
    # One over the images, the first norm of each of the 3 + 4 + 23 blocks, and the one in front of stage 4.
    assert len(norms) == 1 + 30 + 1
    for norm in norms:
        assert {value.dtype for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var)} == {
            torch.float32
        }
    dtypes = set()
    for norm in norms:
        norm.register_forward_hook(lambda _, inputs, output: dtypes.add((inputs[0].dtype, output.dtype)))
    for island in rounded.modules():
        if isinstance(island, InFloat32):
            island.register_forward_hook(lambda _, inputs, output: dtypes.add((inputs[0].dtype, output.dtype)))
    # A smaller image would do, were the size not checked: the features take any.
    with torch.inference_mode():
        rounded.features(torch.zeros(1, 3, 64, 64, dtype=torch.float16))
    assert dtypes == {(torch.float32, torch.float32), (torch.float16, torch.float16)}


def test_small_variances_survive_since_they_are_folded_in_float32(small):
    network = copy.deepcopy(small)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    # Channels that hardly varied in training: their convolution gives little, which the norm then enlarges. Half
    # precision has steps of 6e-8 there, so that variance and epsilon would be off by a hundredth.
    norms[0].running_var[:4] = 1e-6
    norms[0].running_mean[:4] = 1e-4
    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        convolution.weight[:4] *= 1e-3
    images = images_of(network)
    rounded = in_precision(network, "fp16")
    assert max(differences(predict(rounded, images), predict(network, images))) < TOLERANCES["fp16"]
    # By hand, in float64: y = (w x - mean) / sqrt(var + eps) * gamma + beta, rounded to 11 bits once.
    gain = norms[0].weight.double() / (norms[0].running_var.double() + 1e-5).sqrt()
    folded = next(module for module in rounded.modules() if isinstance(module, nn.Conv2d))
    torch.testing.assert_close(
        folded.weight.double(), convolution.weight.double() * gain[:, None, None, None], rtol=2**-11, atol=2**-24
    )
    bias = norms[0].bias.double() - norms[0].running_mean.double() * gain
    torch.testing.assert_close(folded.bias.double(), bias, rtol=2**-11, atol=2**-24)


def loud(network):
    """Scale the convolution in front of the channel norm, so that the sum of squares leaves half precision's range.

    ReLU passes a factor on, and the norm takes it out again. What follows the same map by the other branch is
    scaled back, so that the norm alone is put to the test.
    """
    scaled = copy.deepcopy(network)
    conv4_3 = [module for module in scaled.features.stages[3] if isinstance(module, nn.Conv2d)][-1]
    conv5_1 = next(module for module in scaled.features.stages[4] if isinstance(module, nn.Conv2d))
    heard = []
    hook = scaled.features.norm4.register_forward_hook(lambda _, inputs, output: heard.append(inputs[0]))
    predict(scaled, images_of(scaled))
    hook.remove()
    # A mean sum of squares of four times the largest number, from single values far below it.
    factor = float((4 * LARGEST_HALF / heard[0].square().sum(dim=1).mean()).sqrt())
    with torch.no_grad():
        conv4_3.weight *= factor
        conv4_3.bias *= factor
        conv5_1.weight /= factor
    assert float(heard[0].max()) * factor < LARGEST_HALF / 4
    return scaled


def test_the_channel_norm_computes_in_float32(vgg):
    network = loud(vgg)
    images = images_of(network)
    expected = predict(network, images)
    rounded = in_precision(network, "fp16")
    norms = []
    norm4 = next(module for module in rounded.modules() if isinstance(module, InFloat32))
    norm4.register_forward_hook(lambda _, inputs, output: norms.append(inputs[0]))
    got = predict(rounded, images)
    (before,) = norms
    assert before.dtype == torch.float16 and before.isfinite().all()
    # What rounding the whole network does: an infinite length, by which every value becomes 0.
    with torch.inference_mode():
        after = copy.deepcopy(network.features.norm4).half()(before)
    drowned = (after == 0) | ~after.isfinite()
    assert float(drowned[before > 0].float().mean()) > 0.5
    # Ours: finite and right.
    assert all(value.isfinite().all() for value in got)
    assert max(differences(got, expected)) < TOLERANCES["fp16"]
    # The first 38 * 38 * 4 rows are the normalised map's own, where the others could hide it.
    rows = slice(0, 38 * 38 * 4)
    assert (
        max(differences([value[:, rows] for value in got], [value[:, rows] for value in expected])) < TOLERANCES["fp16"]
    )


def test_the_channel_norm_is_an_island_of_its_own(vgg):
    rounded = in_precision(vgg, "fp16")
    islands = [module for module in rounded.modules() if isinstance(module, InFloat32)]
    assert len(islands) == 1 and isinstance(islands[0].layer, L2Normalize)
    assert islands[0].layer.scale.dtype == torch.float32 and islands[0].layer.scale.unique().tolist() == [20.0]
    values = torch.full((1, 512, 1, 2), 30.0, dtype=torch.float16)
    # 512 * 900 is seven times the largest half: by hand, 30 / (30 * 512^0.5) * 20.
    found = islands[0](values)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, torch.full_like(found, 20 / 512**0.5), rtol=2**-11, atol=0)


def test_vggs_pixel_scale_is_not_rounded(vgg):
    rounded = in_precision(vgg, "fp16")
    assert rounded.features.init_scale.dtype == torch.float32
    # ImageNet's deviations as the network is given them, in units of 1/255.
    torch.testing.assert_close(rounded.features.init_scale.flatten(), 255 * torch.tensor([0.229, 0.224, 0.225]))


@torch.inference_mode()
def test_a_large_bias_of_a_predictor_does_not_swallow_what_the_convolution_adds(small):
    lead = 1000.3  # half precision has steps of 0.5 there
    biased = copy.deepcopy(small)
    for predictor in biased.class_predictors:
        predictor.predictor.bias += lead
    images = images_of(small)
    plain, shifted = (in_precision(network, "fp16")(images)[0] for network in (small, biased))
    assert (shifted - lead - plain).abs().max() < 1e-3


@pytest.mark.parametrize("precision", ["int8", "tf32", "FP16", "half", ""])
def test_an_unknown_precision_is_answered_with_those_that_exist(small, precision):
    with pytest.raises(NetworkError, match=f"'{precision}' does not exist; choose fp32, fp16, bf16"):
        in_precision(small, precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_rounded_network_is_not_rounded_again(small, precision):
    with pytest.raises(NetworkError, match=f"{SMALL} is fp16 already; start from the float32 network"):
        in_precision(in_precision(small, "fp16"), precision)
