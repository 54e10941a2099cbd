"""lib.dynamic.lcs: units, the network they are inserted into, its controls, budgets and features."""

import copy

import pytest
import torch
from torch.nn import functional as F

from dynamic import nets
from lib import models
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs import budget
from lib.dynamic.lcs.controls import CHOICES, choosing, entropies, narrowed, static_masks, untrained
from lib.dynamic.lcs.network import LayerwiseChannelSelection, insert
from lib.dynamic.lcs.units import DecisionUnit

ARCHS = ("vgg16-bn", "resnet18", "resnet20", "resnet50")


def pictures(count=12, seed=0):
    """Images that differ in brightness and colour, so that units decide differently."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(count, 3, 1, 1, generator=generator)
    return (base * torch.rand(count, 3, 32, 32, generator=generator)).clamp(0, 1)


def selection(arch="resnet20", form="standardised", masks=4, share=0.5, seed=0, **args):
    """A tiny network whose rows differ and whose units have seen images."""
    lcs = LayerwiseChannelSelection(nets.build(arch, **args).float(), masks, form, 3.0, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for layer in lcs.layers:
        rows = lcs.unit(layer).masks
        drawn = torch.rand(rows.shape, generator=generator)
        rows.data = (drawn - share).clamp_min(0) * 2 + (drawn >= share) * 0.1
        rows.data[:, 0] = 1.0  # no row is empty
    lcs.measure_units(pictures(32))
    return lcs


@pytest.mark.parametrize("arch", ARCHS)
def test_masks_of_one_change_nothing(arch, one_thread):
    model = nets.build(arch).float()
    before = copy.deepcopy(model.state_dict())
    lcs = insert(model, masks=3).eval()
    assert torch.equal(lcs(pictures()), model(pictures()))
    assert torch.equal(lcs.plain()(pictures()), model(pictures())) and type(lcs.plain()) is type(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lcs.modules())


def test_which_convolutions_are_masked():
    vgg = LayerwiseChannelSelection(nets.build("vgg16-bn").float())
    assert len(vgg.layers) == 12 and vgg.layers[0] == "features.conv1_2" and "features/conv5_3" in vgg.units
    assert (
        vgg.wires["features.conv5_3"].reader == "classifier.fc8"
        and vgg.wires["features.conv1_2"].norm == "features.bn1_2"
    )
    for arch, blocks in (("resnet20", 9), ("resnet18", 8), ("resnet50", 16)):
        lcs = LayerwiseChannelSelection(nets.build(arch).float())
        assert len(lcs.layers) == blocks and all(layer.endswith("conv1") for layer in lcs.layers)
    with pytest.raises(DynamicError, match="takes one of these from"):
        LayerwiseChannelSelection(nets.build("mobilenet-v1").float())


@pytest.mark.parametrize("form", ["stated", "standardised"])
def test_a_unit_is_softmax_of_the_pooled_input(form):
    unit = DecisionUnit(3, 5, 4, form, 2.0, torch.Generator().manual_seed(1)).eval()
    x = torch.randn(6, 3, 4, 4)
    values = torch.stack([torch.stack([plane.clamp(min=0).mean() for plane in image]) for image in x])
    if form == "standardised":
        unit.mean.copy_(torch.tensor([0.1, 0.2, 0.3])), unit.variance.copy_(torch.tensor([0.01, 0.04, 1.0]))
        values = (values - unit.mean) / (unit.variance + 1e-5).sqrt()
    wanted = torch.exp(2.0 * values @ unit.weight.T)
    assert torch.allclose(unit(x), wanted / wanted.sum(1, keepdim=True), atol=1e-5)
    assert torch.allclose(unit.weight.norm(dim=1), torch.ones(4)) and (unit.masks == 1).all()


def test_after_a_step_rows_have_length_one_and_masks_lie_within_their_limits():
    unit = DecisionUnit(3, 4, 2)
    unit.weight.data *= 7
    unit.masks.data = torch.tensor([[-1.0, 0, 2, 9], [5, 5.1, 1, 0.5]])
    unit.normalise()
    assert torch.allclose(unit.weight.norm(dim=1), torch.ones(2))
    assert unit.masks.tolist() == [[0, 0, 2, 5], [5, 5, 1, 0.5]]


def test_standardised_units_take_in_what_they_see_in_training():
    unit, x = DecisionUnit(2, 3, form="standardised"), torch.rand(40, 2, 3, 3) + 1
    unit.eval()(x)
    assert unit.seen == 0 and (unit.mean == 0).all()
    unit.train()(x)
    values = x.mean((2, 3))
    assert torch.allclose(unit.mean, values.mean(0)) and torch.allclose(unit.variance, values.var(0, unbiased=False))
    unit.forget()
    unit(x + 1)
    assert torch.allclose(unit.mean, values.mean(0) + 1)


def test_the_chosen_row_multiplies_the_normalised_output_before_the_relu(one_thread):
    lcs, x = selection(), pictures()
    with torch.no_grad():
        block, layer = lcs.network.layer1[0], "layer1.0.conv1"
        entry = lcs.network.relu(lcs.network.bn1(lcs.network.conv1(lcs.network.normalise(x))))
        rows = lcs.unit(layer)(entry).argmax(1)
        inner = (block.bn1(block.conv1(entry)) * lcs.unit(layer).masks[rows][:, :, None, None]).relu()
        wanted = (block.bn2(block.conv2(inner)) + entry).relu()
        got = {}
        handle = block.register_forward_hook(lambda _m, _i, output: got.update(made=output))
        lcs(x)
        handle.remove()
    assert torch.allclose(got["made"], wanted, atol=1e-6)
    assert torch.equal(lcs.chosen(x)[layer], rows) and len(rows.unique()) > 1


def test_decisions_and_their_feature(one_thread):
    lcs, x = selection("vgg16-bn"), pictures()
    lcs.train()
    told = lcs.decisions(x)
    assert lcs.training and list(told) == lcs.layers
    assert all(torch.allclose(p.sum(1), torch.ones(12), atol=1e-5) and p.dtype == torch.float32 for p in told.values())
    assert torch.allclose(lcs.feature(x, batch=5), torch.cat(list(told.values()), 1), atol=1e-6)
    assert all(torch.equal(lcs.chosen(x, batch=5)[layer], p.argmax(1)) for layer, p in told.items())
    shares = lcs.frequencies(x)
    assert all(shares[layer].sum() == pytest.approx(1) for layer in lcs.layers)
    assert not lcs.feature(x).requires_grad


def test_the_feature_has_a_gradient_where_the_images_want_one(one_thread):
    lcs, x = selection(), pictures(3).requires_grad_()
    lcs.feature(x).sum(0)[0].backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_relaxed_decisions_have_the_same_values_and_another_gradient(one_thread):
    lcs, x = selection(), pictures(4)
    found = []
    for relaxed in (False, True):
        images = x.clone().requires_grad_()
        if relaxed:
            with lcs.relaxed():
                logits = lcs(images)
        else:
            logits = lcs(images)
        logits[:, 0].sum().backward()
        found.append((logits.detach(), images.grad))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert not torch.allclose(found[0][1], found[1][1], rtol=1e-2)


def test_in_training_rows_are_drawn_as_gumbel_softmax_draws_them(one_thread):
    lcs = LayerwiseChannelSelection(nets.build("resnet20").float(), masks=3, form="standardised", logit_scale=2.0)
    lcs.train()
    lcs.temperature = 0.5
    for layer in lcs.layers:
        lcs.unit(layer).masks.data = torch.arange(3.0)[:, None].expand_as(lcs.unit(layer).masks).clone()
    one = pictures(1).expand(600, -1, -1, -1)
    torch.manual_seed(0)
    done = lcs.run(one)
    layer = lcs.layers[0]
    drawn = done.masks[layer][:, 0].round().long().bincount(minlength=3) / 600
    assert torch.allclose(drawn, done.probabilities[layer][0].detach(), atol=0.08)  # of Gumbel's maximum: the softmax
    (gradient,) = torch.autograd.grad(done.masks[layer].sum(), lcs.unit(layer).weight)
    assert gradient.abs().sum() > 0  # straight through the hard choice
    lcs.freeze()
    lcs.train()
    assert lcs.network.training and not any(p.requires_grad for p in lcs.units.parameters())
    assert len(lcs.run(one[:50]).masks[layer].unique(dim=0)) == 1


def test_controls_choose_otherwise_and_only_inside(one_thread):
    lcs, x = selection(), pictures(40)
    layer, own = lcs.layers[0], lcs(x)
    shares = lcs.frequencies(x)
    with lcs.choosing("top", shares):
        assert lcs.choose == "top" and len(lcs.run(x).masks[layer].unique(dim=0)) == 1
        assert torch.equal(lcs.run(x).masks[layer][0], lcs.unit(layer).masks[shares[layer].argmax()])
    with lcs.choosing("static", shares):
        wanted = sum(share * row for share, row in zip(shares[layer], lcs.unit(layer).masks, strict=True))
        assert torch.allclose(lcs.run(x).masks[layer][7], wanted, atol=1e-6)
    drawn = []
    for seed in (0, 0, 1):
        with lcs.choosing("random", shares, seed=seed):
            drawn.append(lcs.run(x).masks[layer])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    with lcs.choosing("random"):
        uniform = torch.stack([(lcs.run(x).masks[layer] == row).all(1).float().mean() for row in lcs.unit(layer).masks])
    assert uniform.min() > 0.05
    assert torch.equal(lcs(x), own) and lcs.choose == "decided"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lcs: lcs.unit("fc"), "no decision unit at 'fc': one of layer1.0.conv1"),
        (lambda lcs: lcs.choosing("best").__enter__(), "choosing 'best': one of decided, random, static, top"),
        (lambda lcs: lcs.choosing("top").__enter__(), "'top' needs frequencies"),
        (lambda lcs: lcs.choosing("static").__enter__(), "'static' needs masks"),
        (lambda lcs: budget.threshold(lcs, 0.01, pictures(4)), "a budget of 0.01 of the MACs cannot be met: with 0.1"),
        (lambda lcs: budget.threshold(lcs, 1.5, pictures(4)), "budget is 1.5: a share"),
        (lambda _: DecisionUnit(2, 2, form="other"), "form is 'other': one of stated, standardised"),
        (lambda _: DecisionUnit(2, 2, masks=1), "masks is 1: a decision needs 2"),
        (lambda _: DecisionUnit(2, 2, logit_scale=0), "logit_scale is 0: a number above 0"),
    ],
)
def test_what_cannot_be_done_is_said(call, message, one_thread):
    with pytest.raises(DynamicError, match=message):
        call(selection())


def test_macs_of_an_image_are_those_of_the_network_that_has_only_its_channels(one_thread):
    from lib.dynamic.cost import macs
    from lib.dynamic.scratch.build import shrink

    for arch in ("resnet20", "vgg16-bn"):
        lcs, x = selection(arch), pictures(6)
        own, masks = sum(lcs.unit(layer).weight.numel() for layer in lcs.layers), lcs.run(x).masks
        for image, told in enumerate(budget.image_macs(lcs, x, batch=4).tolist()):
            narrow = shrink(lcs.plain(), {layer: mask[image] != 0 for layer, mask in masks.items()})
            assert told == macs(narrow, (3, 32, 32)) + own


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_thresholding_keeps_the_largest_entries_that_fit(share, one_thread):
    lcs, x = selection(share=0.0), pictures(20)
    before = {layer: lcs.unit(layer).masks.detach().clone() for layer in lcs.layers}
    told = budget.threshold(lcs, share, x, least=0.05)
    assert share - 0.05 < told.share <= share and told.share == pytest.approx(budget.share_of(lcs, x))
    after = {layer: lcs.unit(layer).masks.detach() for layer in lcs.layers}
    for layer, mask in after.items():
        gone = before[layer][(mask == 0) & (before[layer] != 0)]
        assert (mask[mask != 0] == before[layer][mask != 0]).all() and (gone <= told.threshold + 1e-6).all()
        assert (mask != 0).any(1).all()
    entries = torch.cat([mask.flatten() for mask in after.values()])
    assert told.sparsity == pytest.approx((entries == 0).float().mean().item()) == pytest.approx(lcs.sparsity())
    assert told.magnitude == pytest.approx(entries.mean().item(), rel=1e-4)


def test_a_budget_that_is_met_already_changes_nothing_and_one_that_cannot_be_met_neither(one_thread):
    lcs, x = selection(share=0.6), pictures(20)
    before = copy.deepcopy(lcs.state_dict())
    assert budget.threshold(lcs, 1.0, x).share < 0.9
    with pytest.raises(DynamicError, match="cannot be met"):
        budget.threshold(lcs, 0.05, x)
    assert all(torch.equal(value, before[name]) for name, value in lcs.state_dict().items())


def test_a_static_mask_of_the_same_macs(one_thread):
    for arch in ("resnet20", "vgg16-bn"):
        lcs, x = selection(arch, width=8), pictures(60)
        wanted, masks = budget.share_of(lcs, x), static_masks(lcs, x)
        with lcs.choosing("static", masks=masks):
            assert budget.share_of(lcs, x) == pytest.approx(wanted, abs=0.03)
        average = lcs.average_masks(lcs.frequencies(x))
        for layer, mask in masks.items():
            assert (mask[mask != 0] == average[layer][mask != 0]).all()
            if (mask == 0).any():
                assert mask[mask != 0].min() >= average[layer][mask == 0].max()
        logits = None
        with lcs.choosing("static", masks=masks):
            logits = lcs(x)
        lcs.collapse(masks)
        assert torch.allclose(lcs(x), logits, atol=1e-5)
        narrow = narrowed(lcs)
        assert torch.allclose(narrow(x), logits, atol=1e-4)
        for layer, mask in masks.items():
            assert narrow.get_submodule(layer).out_channels == (mask != 0).sum() < len(mask)


def test_every_choice_is_that_of_a_copy(one_thread):
    lcs, x = selection(), pictures(40)
    own, layer = lcs(x), lcs.layers[0]
    logits, rows = {}, {}
    for choice in CHOICES:
        with choosing(lcs, choice, x, seed=3) as other:
            assert other is not lcs
            logits[choice], rows[choice] = other(x), other.run(x).masks[layer].unique(dim=0)
    assert torch.equal(logits["decided"], own) and torch.equal(lcs(x), own) and lcs.choose == "decided"
    assert {choice for choice, masks in rows.items() if len(masks) == 1} == {"static", "top"}
    assert all(not torch.equal(found, own) for choice, found in logits.items() if choice != "decided")
    with pytest.raises(DynamicError, match="no choice 'best': one of decided, static"), choosing(lcs, "best", x, 0):
        pass


def test_recalibrated_statistics_are_those_of_the_images(one_thread):
    lcs, x = selection(), pictures(30)
    rows = copy.deepcopy([lcs.unit(layer).masks for layer in lcs.layers])
    lcs.train()
    before = lcs.unit(lcs.layers[0]).mean.clone()
    lcs.recalibrate_bn(x, batch=30)
    assert torch.equal(lcs.unit(lcs.layers[0]).mean, before)
    lcs.recalibrate_bn(x, batch=30, units=True)
    unit, entry = (
        lcs.unit(lcs.layers[0]),
        lcs.network.relu(lcs.network.bn1(lcs.network.conv1(lcs.network.normalise(x)))),
    )
    assert torch.allclose(unit.mean, entry.mean((0, 2, 3)), atol=1e-4) and not lcs.frozen
    assert lcs.training and all(torch.equal(a, lcs.unit(n).masks) for a, n in zip(rows, lcs.layers, strict=True))
    first = lcs.network.conv1(lcs.network.normalise(x)).detach()
    assert torch.allclose(lcs.network.bn1.running_mean, first.mean((0, 2, 3)), atol=1e-5)
    assert lcs.network.bn1.momentum == 0.1


def test_untrained_units_are_others_and_the_rest_is_the_same(one_thread):
    lcs, x = selection(), pictures(40)
    fresh = untrained(lcs, x, seed=5)
    for layer in lcs.layers:
        assert not torch.allclose(fresh.unit(layer).weight, lcs.unit(layer).weight)
        assert torch.equal(fresh.unit(layer).masks, lcs.unit(layer).masks)
    assert torch.equal(untrained(lcs, x, seed=5)(x), fresh(x))


def test_entropy_in_bits():
    shares = {"a": torch.tensor([1.0, 0, 0, 0]), "b": torch.full((4,), 0.25), "c": torch.tensor([0.5, 0.25, 0.25])}
    assert entropies(shares) == pytest.approx({"a": 0, "b": 2, "c": 1.5})


def test_the_state_can_be_stored_copied_and_taken_back(one_thread):
    lcs, x = selection(), pictures()
    again = LayerwiseChannelSelection(models.build("resnet20", width=4), 4, "standardised", 3.0).eval()
    again.load_state_dict(lcs.state_dict())
    assert torch.equal(again(x), lcs(x)) and torch.equal(copy.deepcopy(lcs)(x), lcs(x))


def test_the_same_seed_gives_the_same_units():
    model = nets.build("resnet20").float()
    one, two, other = (insert(model, seed=seed) for seed in (1, 1, 2))
    layer = one.layers[3]
    assert torch.equal(one.unit(layer).weight, two.unit(layer).weight)
    assert F.mse_loss(one.unit(layer).weight, other.unit(layer).weight) > 0.01
