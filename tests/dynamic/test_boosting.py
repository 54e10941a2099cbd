"""lib.dynamic.boosting: feature boosting and suppression."""

import math
from itertools import pairwise

import pytest
import torch
from training_tools import images, net, recipe

from dynamic import nets
from dynamic.test_lcs import pictures
from lib import training
from lib.dynamic.boosting import Boost, FeatureBoosting, insert
from lib.dynamic.cost import macs
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch.build import shrink

SHAPE = (3, 32, 32)


def boosted(arch="resnet20", budget=0.5, **args):
    return FeatureBoosting(nets.build(arch, **args).float(), budget, SHAPE).eval()


def test_the_k_largest_predictions_multiply_the_normalised_output(one_thread):
    model, x = boosted(), pictures(6)
    with torch.no_grad():
        network, block, linear = model.network, model.network.layer1[0], model.predictors["layer1/0/conv1"]
        entry = network.relu(network.bn1(network.conv1(network.normalise(x))))
        g = (entry.abs().mean((2, 3)) @ linear.weight.T + linear.bias).clamp(min=0)
        kept = model.kept()["layer1.0.conv1"]
        winners = torch.stack([row * (row >= row.sort(descending=True).values[kept - 1]) for row in g])
        inner = (block.bn1(block.conv1(entry)) * winners[:, :, None, None]).relu()
        wanted = (block.bn2(block.conv2(inner)) + entry).relu()
        got = {}
        handle = block.register_forward_hook(lambda _m, _i, output: got.update(made=output))
        model(x)
        handle.remove()
    assert torch.allclose(got["made"], wanted, atol=1e-5)
    assert torch.allclose(model.saliency[0], g, atol=1e-5) and len(model.saliency) == 9


@pytest.mark.parametrize(
    ("arch", "budget"), [("resnet20", 0.4), ("vgg16-bn", 0.3), ("vgg16-bn", 0.7), ("resnet50", 0.7)]
)
def test_the_densest_choice_within_the_budget(arch, budget, one_thread):
    model = boosted(arch, budget, width=8)
    counts = {layer: model.network.get_submodule(layer).out_channels for layer in model.layers}
    assert model.kept() == {layer: math.ceil(model.density * count - 1e-9) for layer, count in counts.items()}
    narrow = shrink(model.network, {n: torch.arange(counts[n]) < kept for n, kept in model.kept().items()})
    own = sum(p.weight.numel() for p in model.predictors.values())
    assert model.share(SHAPE) == pytest.approx((macs(narrow, SHAPE) + own) / macs(model.network, SHAPE))
    most = max(counts.values())
    assert model.share(SHAPE) <= budget < model.share(SHAPE, model.density + 1 / most)


def test_training_brings_the_density_down_and_all_weights_move(one_thread):
    from torch import nn

    from lib.models import ResNet

    network = ResNet((3, 8, 8), 4, nn.Identity(), blocks=(1, 1), width=4)
    model, seen = insert(network, 0.6, [3, 8, 8]), []

    class Watch(training.Hook):
        def step(self, run):
            seen.append(run.model.density)

    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    history = training.fit(model, images(), recipe(epochs=8), hooks=[Boost(1e-4, ramp=0.5), Watch()], device="cpu")
    assert seen[0] == 1 and seen[-1] == model.target == model.density and all(a >= b for a, b in pairwise(seen))
    assert seen.count(model.target) >= len(seen) // 2 and history[-1]["loss"] < history[0]["loss"]
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_the_loss_has_the_size_of_the_predictions(one_thread):
    model, x = boosted(), pictures(4)
    hook = Boost(weight=0.25)
    hook.model = model
    logits = model(x)
    wanted = 1.5 + 0.25 * sum(g.sum().item() / 4 for g in model.saliency)
    assert hook.loss(None, torch.tensor(1.5), logits, None).item() == pytest.approx(wanted, rel=1e-5)


def test_the_same_seed_gives_the_same_predictors():
    network = nets.build("resnet20").float()
    one, two, other = (FeatureBoosting(network, 0.5, SHAPE, seed) for seed in (1, 1, 2))
    name = "layer1/0/conv1"
    assert torch.equal(one.predictors[name].weight, two.predictors[name].weight)
    assert not torch.equal(one.predictors[name].weight, other.predictors[name].weight)
    assert (one.predictors[name].bias == 1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: boosted(budget=1.2), "budget is 1.2: a share"),
        (lambda: boosted(budget=0.01), "a budget of 0.01 of the MACs cannot be met"),
        (lambda: Boost(ramp=2), "ramp is 2: a share of the steps"),
        (lambda: training.fit(net(), images(), recipe(), hooks=[Boost()]), "Sequential has no predictors to train"),
    ],
)
def test_what_cannot_be_done_is_said(call, message):
    with pytest.raises(DynamicError, match=message):
        call()
