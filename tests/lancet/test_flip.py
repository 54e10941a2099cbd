"""lib.lancet.repair.flip: the fewest voted weights that end an error, and never more than have votes."""

import math

import pytest
import torch
from torch import nn

from lancet import nets
from lib.lancet import locating
from lib.lancet.errors import LancetError
from lib.lancet.locating.locate import Votes
from lib.lancet.repair import flip as flipping


def planted():
    """A linear network of 3 classes whose weight (1, 3) lets the last input decide for class 1; pairs that show it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0.9, 0, 9.0], [0, 0, 1.0, 0]]))
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(60, 1, 2, 2, generator=generator)
    clean[:, 0, 1, 1] = 0
    labels = model(clean).argmax(1)
    stamped = clean.clone()
    stamped[:, 0, 1, 1] = 1
    others = labels != 1
    return model, stamped[others], clean[others], labels[others], (clean, labels)


def test_the_planted_weight_alone_is_flipped():
    model, stamped, clean, labels, held = planted()
    before = model[1].weight.clone()
    votes = locating.locate(model, stamped, clean, labels)
    repaired, report = flipping.flip(model, votes, stamped, labels, target=1, threshold=0, clean=held)
    assert torch.equal(model[1].weight, before)
    changed = (repaired[1].weight != before).nonzero().tolist()
    assert changed == [[1, 3]] and repaired[1].weight[1, 3] == -9
    assert (report.flipped, report.layer, report.reached) == (1, "1", True)
    assert (report.success_before, report.success_after) == (1, 0)
    assert (report.accuracy_before, report.accuracy_after) == (1, 1)
    zeroed, report = flipping.flip(model, votes, stamped, labels, target=1, mode="zero")
    assert zeroed[1].weight[1, 3] == 0 and report.mode == "zero"


@pytest.mark.parametrize("kind", [nets.Plain, nets.Residual])
def test_success_is_that_of_the_repaired_network_and_only_voted_weights_change(kind):
    model = nets.make(kind)
    images, others, labels = nets.pairs(model, 24)
    votes = locating.locate(model, images, others, labels)
    for layer, found in votes.items():
        if not bool((found.counts > 0).any()):
            continue
        repaired, report = flipping.flip(model, votes, images, labels, layer=layer, threshold=0.3)
        wrong = (repaired(images).argmax(1) != labels).float().mean().item()
        assert report.success_after == pytest.approx(wrong) and report.reached == (wrong <= 0.3)
        after = repaired.get_submodule(layer).weight.flatten()
        before = model.get_submodule(layer).weight.flatten()
        changed = (after != before).nonzero()[:, 0]
        assert set(changed.tolist()) <= set(found.order()[: report.flipped].tolist())
        assert torch.equal(after[changed], -before[changed])
        for name, value in repaired.state_dict().items():
            assert name == f"{layer}.weight" or torch.equal(value, model.state_dict()[name])


def test_a_threshold_never_reached_is_reported_with_the_best_found():
    model, stamped, clean, labels, _ = planted()
    votes = locating.locate(model, stamped, clean, labels)
    useless = Votes(
        "1", torch.zeros(3, 4, dtype=torch.int32), torch.ones(3, 4), votes["1"].repaired, votes["1"].fractions
    )
    useless.counts[0, 0] = 1  # flipping it never helps
    _, report = flipping.flip(model, {"1": useless}, stamped, labels, target=1)
    assert not report.reached and report.success_after == 1 and report.flipped == 1


def test_random_weights_are_as_many_and_do_not_repair():
    model, stamped, clean, labels, _ = planted()
    votes = locating.locate(model, stamped, clean, labels)
    repaired, report = flipping.flip(model, votes, stamped, labels, target=1, mode="random", weights=1, seed=1)
    assert report.flipped == 1 and report.success_after == 1 and not report.reached
    assert int((repaired[1].weight != model[1].weight).sum()) <= 1


def test_of_the_layers_tried_the_one_worth_most_is_kept():
    model = nets.make(nets.Plain)
    images, others, labels = nets.pairs(model, 24)
    votes = locating.locate(model, images, others, labels)
    generator = torch.Generator().manual_seed(5)
    clean = torch.rand(40, *nets.Plain.shape, generator=generator)
    held = (clean, model(clean).argmax(1))
    repaired, report, tried = flipping.flip_by_trial(model, votes, images, labels, clean=held, threshold=0.5)
    assert len(tried) > 1
    best = max(each.accuracy_after - each.success_after for each in tried.values())
    assert report.accuracy_after - report.success_after == best > report.accuracy_before - report.success_before
    kept = (repaired(held[0]).argmax(1) == held[1]).float().mean().item()
    assert report.accuracy_after == pytest.approx(kept)


def test_what_is_said_where_nothing_can_be_flipped():
    model, stamped, _, labels, held = planted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counts, nothing = torch.zeros(3, 4, dtype=torch.int32), torch.full((2,), math.nan)
    none = Votes("1", counts, torch.ones(3, 4), torch.tensor([False, False]), nothing)
    with pytest.raises(LancetError, match="no pair is repaired"):
        flipping.flip(model, {"1": none}, stamped, labels)
    with pytest.raises(LancetError, match="no weight of layer '1' has a vote: none is changed"):
        flipping.flip(model, {"1": none}, stamped, labels, layer="1")
    with pytest.raises(LancetError, match=r"no weight of the layers \['1'\] has a vote"):
        flipping.flip_by_trial(model, {"1": none}, stamped, labels, clean=held)
    with pytest.raises(LancetError, match="layer 'conv' has no votes: one of 1"):
        flipping.flip(model, {"1": none}, stamped, labels, layer="conv")
    with pytest.raises(LancetError, match="mode is 'invert'"):
        flipping.flip(model, {"1": none}, stamped, labels, layer="1", mode="invert")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
