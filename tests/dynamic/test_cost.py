"""lib.dynamic.cost and channels: closed forms, torch's own counter, and which channels are free."""

import pytest
import torch
from torch import nn

from dynamic.nets import QUICK, SHAPE, build
from lib.dynamic import cost
from lib.dynamic.channels import gated_sites, sites
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch.build import shrink

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_convolution_and_a_linear_layer_in_closed_form():
    net = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 4 * 4, 7))
    assert cost.layer_macs(net, (3, 8, 8)) == {"0": 5 * 16 * 27, "3": 80 * 7}
    assert cost.macs(net, (3, 8, 8)) == 5 * 16 * 27 + 80 * 7
    assert cost.flops(net, (3, 8, 8)) == 2 * cost.macs(net, (3, 8, 8))
    assert cost.parameters(net) == 5 * 27 + 5 + 80 * 7 + 7


def test_groups_divide_the_price():
    whole, grouped = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=4)
    assert cost.macs(whole, (8, 5, 5)) == 4 * cost.macs(grouped, (8, 5, 5)) == 9 * 64 * 9


@pytest.mark.parametrize("arch", QUICK)
def test_layer_by_layer_adds_up_to_the_counter(arch):
    model = build(arch)
    whole = cost.macs(model, SHAPE)
    assert sum(cost.layer_macs(model, SHAPE).values()) == whole
    assert cost.Prices.of(model, SHAPE).total({}) == whole


@pytest.mark.parametrize("arch", QUICK)
def test_prices_of_kept_channels_are_those_of_the_narrower_network(arch):
    model = build(arch)
    generator = torch.Generator().manual_seed(0)
    keep = {}
    for name, site in sites(model).items():
        keep[name] = torch.rand(site.channels, generator=generator) < 0.6
        keep[name][0] = True
    counts = {name: int(mask.sum()) for name, mask in keep.items()}
    assert cost.Prices.of(model, SHAPE).total(counts) == cost.macs(shrink(model, keep), SHAPE)


def test_each_image_has_its_own_price():
    model = build("resnet20")
    name = "layer2.0.conv1"
    each = cost.Prices.of(model, SHAPE).total({name: torch.tensor([8, 0, 4])})
    per_channel = 256 * 9 * (4 + 8)  # 16 x 16 positions, 9 taps: 4 inputs of its own, 8 outputs of the next
    assert each.tolist() == [each[0], each[0] - 8 * per_channel, each[0] - 4 * per_channel]
    assert each[0] == cost.macs(model, SHAPE)


@pytest.mark.parametrize(
    ("arch", "wanted"),
    [
        ("vgg16-bn", lambda name: name.startswith("features.conv")),
        ("resnet20", lambda name: name.startswith("layer") and name.endswith("conv1")),
        ("resnet18", lambda name: name.startswith("stages") and name.endswith("conv1")),
        ("resnet50", lambda name: name.startswith("layer") and name.endswith(("conv1", "conv2"))),
        ("mobilenet-v1", lambda name: "stem" in name or "pointwise" in name),
        ("mobilenet-v2", lambda name: name in ("stem", "last") or name.endswith("expand")),
    ],
)
def test_gates_sit_where_the_source_has_them(arch, wanted):
    model = build(arch)
    found = gated_sites(model)
    depthwise = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    assert set(found) == {
        n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and wanted(n) and n not in depthwise
    }
    for site in found.values():
        assert isinstance(model.get_submodule(site.norm), nn.BatchNorm2d)


def test_channels_that_reach_an_addition_are_not_free():
    assert not {"conv1", "layer1.0.conv2"} & set(sites(build("resnet20")))


def test_a_linear_layer_behind_pixels_reads_several_inputs_a_channel():
    net = build("vgg16-bn", shape=(3, 64, 64))
    assert sites(net)["features.conv5_3"].readers == {"classifier.fc8": 4}


def test_latency_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    model[0].eval()
    model[1].train()
    found = cost.latency(model, torch.rand(5, 4), repeats=4, warmup=1)
    assert 0 < found.low <= found.median <= found.high
    assert model[1].training and not model[0].training


def test_latency_is_per_image():
    class Sleeps(nn.Module):
        def forward(self, x):
            import time

            time.sleep(0.02)
            return x

    assert 0.02 / 4 <= cost.latency(Sleeps(), torch.rand(4, 1), repeats=3).median < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cost.latency(nn.Linear(2, 2), torch.rand(0, 2)), "an image, not 20 repeats of 0 images"),
        (lambda: cost.Prices.of(build("resnet20"), SHAPE).total({"conv1": 2}), "conv1 is no convolution whose output"),
        (lambda: gated_sites(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), "no convolution followed by BatchNorm2d"),
        (lambda: sites(_Looks()), "_Looks cannot be traced by torch.fx"),
    ],
)
def test_what_cannot_be_priced(call, message):
    with pytest.raises(DynamicError, match=message):
        call()


class _Looks(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
