"""Static baselines: their scores in closed form, their structures, and torch-pruning's own pruning beside ours."""

import copy

import pytest
import torch
import torch_pruning as tp
from training_tools import images, net, recipe

from dynamic.nets import SHAPE, build
from lib import training
from lib.dynamic import cost, static
from lib.dynamic.channels import gated_sites
from lib.dynamic.scratch.build import shrink

pytestmark = pytest.mark.usefixtures("one_thread")
MAKERS = [static.l1_structure, static.slimming_structure, static.uniform_structure]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("arch", ["vgg16-bn", "resnet20", "mobilenet-v2"])
def test_budgets_are_met(make, arch):
    model = build(arch, width=8)
    for budget in (0.7, 0.4):
        found = make(model, budget, SHAPE)
        assert found.share == pytest.approx(budget, abs=0.01)
        assert cost.macs(shrink(model, found.keep), SHAPE) == found.macs


def test_l1_norms_and_scales_in_closed_form():
    model = build("resnet20").float()
    norms, scales = static.filter_norms(model, SHAPE), static.norm_scales(model, SHAPE)
    for name, site in gated_sites(model).items():
        weight, norm = model.get_submodule(name).weight, model.get_submodule(site.norm).weight
        assert torch.allclose(norms[name], weight.abs().sum((1, 2, 3)), rtol=1e-5)
        assert torch.allclose(scales[name], norm.abs(), rtol=1e-5)


def test_l1_drops_equal_shares_of_the_smallest_filters():
    model = build("resnet20", width=16).float()
    found = static.l1_structure(model, 0.5, SHAPE)
    ratios = torch.stack([mask.double().mean() for mask in found.keep.values()])
    assert (ratios - ratios.mean()).abs().max() <= 1 / 16
    for name, norm in static.filter_norms(model, SHAPE).items():
        kept = found.keep[name]
        assert norm[~kept].max() <= norm[kept].min()


def test_slimming_ranks_over_all_layers():
    model = build("resnet20", width=16).float()
    model.get_submodule("layer2.1.bn1").weight.data.mul_(0.01)
    found = static.slimming_structure(model, 0.7, SHAPE)
    assert found.channels["layer2.1.conv1"] == 1
    assert torch.stack([mask.double().mean() for mask in found.keep.values()]).std() > 0.1


def test_slimming_with_a_share_of_each_layer_held_back():
    model = build("resnet20", width=16).float()
    model.get_submodule("layer2.1.bn1").weight.data.mul_(0.01)
    found = static.slimming_structure(model, 0.7, SHAPE, least=0.1)
    assert found.channels["layer2.1.conv1"] == 4  # of 32
    scale = model.get_submodule("layer2.1.bn1").weight.abs()
    kept = found.keep["layer2.1.conv1"]
    assert scale[kept].min() >= scale[~kept].max()
    assert found.macs == pytest.approx(static.slimming_structure(model, 0.7, SHAPE).macs, rel=0.01)
    same = static.slimming_structure(build("vgg16-bn"), 0.5, SHAPE)
    assert same.channels == static.slimming_structure(build("vgg16-bn"), 0.5, SHAPE, least=0.01).channels


def test_uniform_depends_on_no_weight():
    one, other = build("vgg16-bn", seed=0), build("vgg16-bn", seed=1)
    first, second = (static.uniform_structure(model, 0.5, SHAPE) for model in (one, other))
    assert first.channels == second.channels


def test_torch_pruning_leaves_the_same_network():
    model = build("resnet20").float()
    name = "layer2.0.conv1"
    keep = torch.arange(8) % 3 != 0
    theirs = copy.deepcopy(model)
    graph = tp.DependencyGraph().build_dependency(theirs, example_inputs=torch.zeros(1, *SHAPE))
    gone = (~keep).nonzero()[:, 0].tolist()
    graph.get_pruning_group(theirs.get_submodule(name), tp.prune_conv_out_channels, idxs=gone).prune()
    x = torch.rand(2, *SHAPE)
    assert torch.allclose(theirs(x), shrink(model, {name: keep})(x), rtol=1e-5, atol=1e-6)


def test_ranks():
    ranks = static.by_rank(torch.tensor([3.0, 1.0, 1.0, 2.0]))
    assert ranks.tolist() == [0.875, 0.375, 0.125, 0.625]


def test_the_hook_adds_the_norm_of_the_free_scales():
    plain, slim = net(seed=1), net(seed=1)
    set_of = images()
    training.fit(plain, set_of, recipe(epochs=6), device="cpu")
    training.fit(slim, set_of, recipe(epochs=6), hooks=[static.Slimming(0.5)], device="cpu")
    assert slim[1].weight.abs().sum() < plain[1].weight.abs().sum() - 0.5
    hook = static.Slimming(0.1)
    hook.scales = [torch.tensor([1.0, -2.0]), torch.tensor([3.0])]
    assert hook.loss(None, torch.tensor(1.0), None, None).item() == pytest.approx(1.6)
