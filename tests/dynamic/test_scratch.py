"""Pruning from scratch: the search against brute force, the narrower network against the masked one."""

import copy

import pytest
import torch
from torch import nn
from training_tools import same, state

from dynamic.nets import FAMILIES, QUICK, SHAPE, build, some_images
from lib import config, data, training
from lib.dynamic import cost
from lib.dynamic.channels import gated_sites
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch.build import build_pruned, masked, refresh, shrink
from lib.dynamic.scratch.gates import learn_gates
from lib.dynamic.scratch.search import drop_order, search_threshold

pytestmark = pytest.mark.usefixtures("one_thread")


def scores_of(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(site.channels, generator=generator) for name, site in gated_sites(model).items()}


# The search


def test_the_search_finds_what_trying_every_number_finds():
    """With steps enough, the binary search returns the nearest of all structures."""
    model, scores = build("vgg16-bn"), scores_of(build("vgg16-bn"))
    prices, order, names = cost.Prices.of(model, SHAPE), drop_order(scores), list(scores)
    counts = {name: len(score) for name, score in scores.items()}
    every = [prices.total(counts)]
    for place, _ in order:
        counts[names[place]] -= 1
        every.append(prices.total(counts))
    for budget in (0.8, 0.5, 0.3):
        found = search_threshold(model, scores, budget, SHAPE, steps=30, tolerance=0)
        assert abs(found.macs - budget * every[0]) == min(abs(each - budget * every[0]) for each in every)


@pytest.mark.parametrize("arch", QUICK)
def test_the_structure_is_what_it_says(arch):
    model = build(arch)
    found = search_threshold(model, scores_of(model), 0.6, SHAPE)
    assert found.iterations <= 10
    assert {name: int(mask.sum()) for name, mask in found.keep.items()} == found.channels
    assert min(found.channels.values()) >= 1
    narrow = shrink(model, found.keep)
    assert found.macs == cost.macs(narrow, SHAPE)
    assert found.share == pytest.approx(found.macs / cost.macs(model, SHAPE))
    assert found.share == pytest.approx(0.6, abs=0.02)
    total = sum(len(mask) for mask in found.keep.values())
    assert found.dropped == pytest.approx(1 - sum(found.channels.values()) / total)


def test_the_smallest_gates_of_all_layers_go_but_one_of_each_stays():
    model = build("vgg16-bn")
    scores = scores_of(model)
    scores["features.conv3_2"] *= 1e-3  # the whole layer is worth least
    found = search_threshold(model, scores, 0.5, SHAPE)
    assert found.channels["features.conv3_2"] == 1
    best = scores["features.conv3_2"].argmax()
    assert found.keep["features.conv3_2"][best]
    others = [name for name in scores if name != "features.conv3_2"]
    kept = torch.cat([scores[name][found.keep[name]] for name in others])
    gone = torch.cat([scores[name][~found.keep[name]] for name in others])
    assert gone.max() <= kept.min()


def test_ties_narrow_every_layer_alike_from_the_back():
    model = build("vgg16-bn", width=8)
    scores = {name: torch.zeros(site.channels) for name, site in gated_sites(model).items()}
    found = search_threshold(model, scores, 0.5, SHAPE)
    ratios = torch.stack([mask.double().mean() for mask in found.keep.values()])
    assert (ratios - ratios.mean()).abs().max() <= 1 / 8
    for mask in found.keep.values():
        assert not (mask[1:] & ~mask[:-1]).any()  # the first ones stay
    again = search_threshold(model, scores, 0.5, SHAPE)
    assert all(torch.equal(again.keep[name], mask) for name, mask in found.keep.items())


def test_zeros_that_tie_leave_the_nonzero_gates_alone():
    model = build("resnet20")
    scores = {name: (torch.arange(s.channels) % 2).float() for name, s in gated_sites(model).items()}
    found = search_threshold(model, scores, 0.8, SHAPE)
    assert all(mask[1::2].all() for mask in found.keep.values())


def test_the_budget_is_of_the_unexpanded_network():
    plain, wide = build("resnet20", width=8), build("resnet20", width=10)
    found = search_threshold(wide, scores_of(wide), 0.5, SHAPE, reference=plain)
    assert found.macs == pytest.approx(0.5 * cost.macs(plain, SHAPE), rel=0.02)
    assert found.share == pytest.approx(found.macs / cost.macs(plain, SHAPE))


def test_the_whole_network_at_a_budget_of_one():
    model = build("resnet20")
    found = search_threshold(model, scores_of(model), 1.0, SHAPE)
    assert found.dropped == 0 and found.share == 1


def test_a_budget_below_what_no_gate_prunes():
    with pytest.raises(DynamicError, match=r"a budget of 0.02 cannot be met: with one channel a layer,"):
        search_threshold(build("resnet20"), scores_of(build("resnet20")), 0.02, SHAPE)


# The narrower network


@pytest.mark.parametrize("arch", QUICK)
def test_the_narrower_network_computes_what_the_masked_one_does(arch):
    model = build(arch)
    before = copy.deepcopy(state(model))
    keep = search_threshold(model, scores_of(model), 0.6, SHAPE).keep
    images = torch.rand(3, *SHAPE, dtype=torch.float64)
    narrow = shrink(model, keep)
    with masked(model, keep), torch.no_grad():
        wanted = model(images)
    assert torch.allclose(narrow(images), wanted, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(model(images), wanted, rtol=1e-3, atol=1e-3)  # the hooks are gone, and mattered
    assert same(before, state(model))
    assert type(narrow) is type(model) and cost.parameters(narrow) < cost.parameters(model)


def test_several_inputs_a_channel_go_together():
    model = build("vgg16-bn", shape=(3, 64, 64))
    keep = {"features.conv5_3": torch.arange(32) % 3 == 0}
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with masked(model, keep):
        wanted = model(images)
    assert torch.allclose(shrink(model, keep)(images), wanted, rtol=1e-9, atol=1e-9)


def test_fresh_weights_are_those_of_the_architecture():
    model = build("vgg16-bn", width=16).float()
    counts = {name: site.channels // 2 for name, site in gated_sites(model).items()}
    one, again, other = (build_pruned(model, counts, seed=seed) for seed in (0, 0, 1))
    assert same(state(one), state(again)) and not same(state(one), state(other))
    for name, layer in one.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 4000:
            assert layer.out_channels == counts[name]
            assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.1)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and not layer.running_mean.any() and not layer.bias.any()


def test_all_channels_and_the_seed_of_the_first_weights_give_the_network_itself():
    model = build("resnet20", seed=3, trained=False).float()
    whole = {name: site.channels for name, site in gated_sites(model).items()}
    assert same(state(build_pruned(model, whole, seed=3)), state(model))


def test_torch_keeps_its_random_state():
    model, before = build("resnet20"), torch.get_rng_state()
    refresh(copy.deepcopy(model), 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("arch", FAMILIES)
def test_each_family_is_pruned_and_takes_a_step(arch):
    model = build(arch, trained=False).float()
    images, labels = some_images(24)
    found = learn_gates(model, images, labels, epochs=1, batch=8, seed=0)
    assert all(value.min() >= 0 and value.max() <= 1 for value in found.values.values())
    assert any((value != 1).any() for value in found.values.values())
    narrow = build_pruned(model, search_threshold(model, found, 0.7, SHAPE), seed=0)
    images_set = data.ImageSet(images, labels, tuple(map(str, range(10))), "random", "train")
    recipe = config.Recipe("given", "random", epochs=1, batch=8, precision="float32")
    before = copy.deepcopy(state(narrow))
    training.fit(narrow, images_set, recipe, device="cpu")
    assert not same(before, state(narrow))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (
            {"conv1": torch.ones(4, dtype=torch.bool)},
            "output channels of conv1 are not free: one of layer1.0.conv1",
        ),
        ({"layer1.0.conv1": torch.zeros(4, dtype=torch.bool)}, "layer1.0.conv1 would lose all 4 channels"),
        ({"layer1.0.conv1": torch.ones(3, dtype=torch.bool)}, r"a mask is bool \(4,\), not torch.bool \(3,\)"),
        ({"layer1.0.conv1": torch.ones(4)}, r"a mask is bool \(4,\), not torch.float32 \(4,\)"),
    ],
)
def test_masks_that_do_not_fit(keep, message):
    with pytest.raises(DynamicError, match=message):
        shrink(build("resnet20"), keep)


def test_more_channels_than_there_are():
    with pytest.raises(DynamicError, match=r"layer1.0.conv1 cannot have 5 output channels: 1 to 4"):
        build_pruned(build("resnet20"), {"layer1.0.conv1": 5}, seed=0)
