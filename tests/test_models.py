"""lib.models: shapes, weights, normalisation, and that any device and torch.fx will do."""

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses import FakeTensorMode
from training_tools import same, state

from lib import models

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = [(1, 28, 28), (3, 32, 32)]
SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 4},
    "resnet10-preact": {"width": 4},
    "resnet18-preact": {"width": 4},
    "alexnet": {"width": 4, "hidden": 16},
    "fc5": {"hidden": (16, 12, 8, 6)},
    "digits-cnn": {"width": 4},
    "gtsrb-cnn": {"width": 4},
    "deepid": {"width": 4},
    "vgg16-bn": {"width": 4, "hidden": 16},
    "vgg19-bn": {"width": 4},
    "resnet20": {"width": 4},
    "resnet56": {"width": 2},
    "resnet110": {"width": 2},
    "resnet50": {"width": 4},
    "mobilenet-v1": {"width": 4},
    "mobilenet-v2": {"width": 4},
}
every = pytest.mark.parametrize("arch", models.ARCHITECTURES)


def build(arch: str, seed: int = 0, **args) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.build(arch, **{**SMALL[arch], **args}).eval()


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [layer.weight for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def test_this_table_has_every_architecture():
    assert set(SMALL) == set(models.ARCHITECTURES)


@every
@pytest.mark.parametrize("shape", SHAPES, ids=["28x28x1", "32x32x3"])
def test_images_to_logits(arch, shape):
    if arch == "deepid" and shape[1] == 28:
        shape = (1, 31, 31)  # the smallest that it takes
    torch.manual_seed(0)
    model = build(arch, shape=shape, classes=7)
    images = torch.rand(3, *shape)
    logits = model(images)
    assert logits.shape == (3, 7)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert (logits.std(0) > 0).all()  # other images, other logits
    assert torch.allclose(model(images[1:2]), logits[1:2], rtol=1e-4, atol=1e-5 * float(logits.abs().max()))


@every
def test_one_seed_one_network(arch):
    assert same(state(build(arch, seed=1)), state(build(arch, seed=1)))
    assert not same(state(build(arch, seed=1)), state(build(arch, seed=2)))


@every
def test_normalisation_inside_equals_normalisation_outside(arch):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    inside, outside = build(arch, mean=mean, std=std).double(), build(arch).double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    normalised = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(inside(images), outside(normalised), rtol=0, atol=1e-10)
    assert not torch.allclose(inside(images), outside(images), rtol=0, atol=1e-6)
    assert len(list(inside.parameters())) == len(list(outside.parameters()))  # not a thing to be trained


@every
def test_fx_traces_it(arch):
    model = build(arch)
    images = torch.rand(2, 3, 32, 32)
    traced = fx.symbolic_trace(model)
    assert torch.equal(traced(images), model(images))
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    layers = {name for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    assert layers <= called  # each under its dotted name


@every
def test_no_module_is_used_twice(arch):
    """Methods attribute values to a layer by its name: a ReLU used at two places would mix them."""
    targets = [node.target for node in fx.symbolic_trace(build(arch)).graph.nodes if node.op == "call_module"]
    assert len(targets) == len(set(targets))


@every
def test_it_computes_where_its_weights_are(arch):
    with FakeTensorMode(), torch.no_grad():
        model = models.build(arch, mean=(0.5,) * 3, std=(0.2,) * 3, **SMALL[arch]).eval()
        moved = {name: value.to("cuda") for name, value in model.state_dict().items()}
        logits = torch.func.functional_call(model, moved, torch.empty(2, 3, 32, 32, device="cuda"))
    assert logits.device.type == "cuda"


@every
def test_gradients_reach_every_parameter(arch):
    model = build(arch).train()
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("arch", "count", "parameters"),
    [
        ("resnet10-preact", 14, None),  # NNSlicer: 14 weight tensors
        ("resnet18-preact", 26, None),
        ("resnet18", 21, 11_173_962),  # He et al.'s network in its CIFAR form
        ("alexnet", 8, None),
        ("fc5", 5, 3_837_066),
        ("digits-cnn", 4, None),
        ("gtsrb-cnn", 8, None),
        ("deepid", 7, None),
        ("vgg16-bn", 14, None),
        ("vgg19-bn", 17, None),
    ],
)
def test_weight_tensors_and_parameters_of_the_full_size(arch, count, parameters):
    with torch.device("meta"):
        model = models.build(arch)
    assert len(weights(model)) == count
    if parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(("arch", "parameters"), [("vgg16-bn", 138_365_992), ("vgg19-bn", 143_678_248)])
def test_vgg_at_full_size_is_torchvisions(arch, parameters):
    """torchvision's have a bias in each convolution, which the normalisation after it takes away again."""
    with torch.device("meta"):
        model = models.build(arch, shape=(3, 224, 224), classes=1000, hidden=4096)
    biases = sum(layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert sum(p.numel() for p in model.parameters()) == parameters - biases


def test_deepid_has_the_features_of_its_source():
    with torch.device("meta"):
        model = models.build("deepid", shape=(3, 55, 47), classes=1595)
    assert [layer.in_features for layer in (model.fc3, model.fc4, model.fc5)] == [60 * 5 * 4, 80 * 4 * 3, 160]


def test_widths_of_the_pre_activation_family():
    sizes = [block.conv2.out_channels for block in build("resnet10-preact", width=16).blocks]
    assert sizes == [16, 32, 64, 128]
    assert all(layer.bias is None for layer in build("resnet10-preact").modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize("arch", ["resnet18", "resnet10-preact", "resnet18-preact"])
def test_three_stages_halve_the_image(arch):
    model = build(arch)
    seen = []
    model.pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    model(torch.rand(1, 3, 32, 32))
    assert seen == [(4, 4)]


@pytest.mark.parametrize("arch", ["alexnet", "fc5", "gtsrb-cnn", "deepid"])
def test_networks_without_normalisation_layers_start_at_he_normal(arch):
    torch.manual_seed(0)
    model = models.build(arch, **({"width": 16, "hidden": 256} if arch == "alexnet" else {}))
    for layer in (layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))):
        wanted = (2 / layer.weight[0].numel()) ** 0.5
        assert layer.weight.std().item() == pytest.approx(wanted, rel=0.1)
        assert not layer.bias.any()


def test_dropout_acts_in_training_only():
    model, images = build("alexnet"), torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.build("vgg"), "no architecture 'vgg': one of resnet18, resnet10-preact"),
        (lambda: models.build("fc5", mean=(0.5,) * 3), "give mean and std both, or neither"),
        (lambda: models.build("fc5", hidden=(3, 2, 1)), r"FC5 has four hidden layers, got 3: \(3, 2, 1\)"),
        (lambda: models.build("alexnet", shape=(3, 14, 14)), "images of 14x14 are too small for AlexNet"),
        (lambda: models.build("gtsrb-cnn", shape=(3, 32, 21)), "32x21 are too small for this network: at least 22x22"),
        (lambda: models.build("deepid", shape=(1, 30, 47)), "30x47 are too small for DeepID: at least 31x31"),
        (lambda: models.build("vgg16-bn", shape=(1, 15, 15)), "15x15 are too small for VGG: at least 16x16"),
    ],
)
def test_what_cannot_be_built(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("arch", "side"), [("alexnet", 15), ("gtsrb-cnn", 22), ("deepid", 31), ("vgg19-bn", 16)])
def test_the_smallest_image(arch, side):
    assert build(arch, shape=(3, side, side))(torch.rand(1, 3, side, side)).shape == (1, 10)


def test_what_an_architecture_has_where_nothing_is_given():
    assert models.defaults("resnet18") == {"width": 64} and models.defaults("digits-cnn") == {"width": 16}
    with torch.random.fork_rng():
        before = torch.random.get_rng_state()
        models.defaults.cache_clear()
        models.defaults("vgg16-bn")
        assert torch.equal(torch.random.get_rng_state(), before), "no random number is drawn"
