"""lib.models: the families that only dynamic pruning and pruning from scratch use, against their papers' sizes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lib import config, data, models, training
from lib.dynamic import cost
from lib.models.resnet import PaddedShortcut

pytestmark = pytest.mark.usefixtures("one_thread")
LARGE = {"shape": (3, 224, 224), "classes": 1000}


@pytest.mark.parametrize(
    ("arch", "args", "parameters"),
    [
        ("resnet20", {}, 269_722),
        ("resnet56", {}, 853_018),
        ("resnet110", {}, 1_727_962),
        ("resnet50", LARGE, 25_557_032),
        ("mobilenet-v1", LARGE, 4_231_976),
        ("mobilenet-v2", LARGE, 3_504_872),
    ],
)
def test_parameters_of_the_full_size(arch, args, parameters):
    with torch.device("meta"):
        model = models.build(arch, **args)
    assert cost.parameters(model) == parameters


@pytest.mark.parametrize(
    ("arch", "args", "millions"),
    [
        ("resnet20", {}, 40.55),
        ("resnet56", {}, 125.49),
        ("resnet110", {}, 252.89),
        ("resnet50", LARGE, 4089.2),
        ("mobilenet-v1", LARGE, 568.7),
        ("mobilenet-v2", LARGE, 300.8),
    ],
)
def test_multiply_accumulates_of_the_full_size(arch, args, millions):
    """In millions, as these networks are usually cited: .04, .125 and .25 GMAC; 4.1, .57 and .30."""
    with torch.device("meta"):
        model = models.build(arch, **args)
    assert cost.macs(model, args.get("shape", (3, 32, 32))) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_layers_as_they_are_counted():
    for arch, layers in (("resnet20", 20), ("resnet56", 56), ("resnet110", 110)):
        with torch.device("meta"):
            found = [m for m in models.build(arch).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert len(found) == layers


def test_the_shortcut_takes_every_second_pixel_between_zeros():
    x = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 4)
    out = PaddedShortcut(1, 2, 2)(x)
    assert out.shape == (2, 6, 3, 2)
    assert torch.equal(out[:, 1:4], x[:, :, ::2, ::2])
    assert not out[:, :1].any() and not out[:, 4:].any()


def test_stages_halve_the_image():
    model, seen = models.build("resnet20", width=4).eval(), []
    for stage in (model.layer1, model.layer2, model.layer3):
        stage.register_forward_hook(lambda _module, _inputs, out: seen.append(tuple(out.shape[1:])))
    model(torch.rand(1, 3, 32, 32))
    assert seen == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]


@pytest.mark.parametrize("arch", ["resnet20", "mobilenet-v1", "mobilenet-v2", "resnet50"])
def test_they_start_at_he_normal(arch):
    torch.manual_seed(0)
    for layer in models.build(arch, width=16).modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.15)


def test_weights_of_torchvision_fit_the_bottlenecks():
    from torchvision.models import resnet50

    with torch.device("meta"):
        theirs, ours = resnet50().state_dict(), models.build("resnet50", **LARGE).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def published() -> nn.Module:
    """ResNet-20 with the published CIFAR-10 weights, its normalisation inside."""
    path = config.data_root() / "cifar10-resnet-weights" / "resnet20-12fca82f.th"
    if not Path(path).exists():
        pytest.skip(f"{path}: the published ResNet-20 weights are not there")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = models.build("resnet20", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    missing, unexpected = model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()}, strict=False)
    assert set(missing) == {"normalise.mean", "normalise.std"} and not unexpected
    return model.eval()


def test_the_published_weights_fit_and_classify():
    model = published()
    try:
        test = data.load("cifar10", "test").subset(range(400))
    except data.DataError as error:
        pytest.skip(str(error))
    assert training.accuracy(model, test) > 0.88  # published: 91.7 % of the whole test set
