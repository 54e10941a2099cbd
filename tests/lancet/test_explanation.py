"""Visualised classes, isolated weights and blurred regions."""

import copy

import pytest
import torch
from torch import nn

from lancet.defect_nets import SharpSpot, spotted
from lib.lancet.errors import LancetError
from lib.lancet.explanation import ablated, blurred, isolated, visualise
from lib.lancet.locating import Votes


def votes_of(counts, layer="0"):
    counts = counts.to(torch.int32)
    return {layer: Votes(layer, counts, counts.float(), torch.tensor([True]), torch.tensor([0.5]))}


def test_isolating_keeps_the_voted_weights_and_ablating_the_others():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    before = copy.deepcopy(model.state_dict())
    counts = torch.tensor([[0, 1, 2, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
    alone, without = isolated(model, votes_of(counts), "0"), ablated(model, votes_of(counts), "0")
    assert torch.equal(alone[0].weight, before["0.weight"] * (counts > 0))
    assert torch.equal(without[0].weight, before["0.weight"] * (counts == 0))
    twice = isolated(model, votes_of(counts), "0", least_votes=2)
    assert torch.equal(twice[0].weight, before["0.weight"] * (counts >= 2))
    for changed in (alone, without):
        others = {name: value for name, value in changed.state_dict().items() if name != "0.weight"}
        assert all(torch.equal(value, before[name]) for name, value in others.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("counts", "layer", "least", "message"),
    [
        (torch.zeros(3, 4), "0", 1, r"no weight of layer '0' has 1 vote\(s\)"),
        (torch.ones(3, 4), "0", 2, r"no weight of layer '0' has 2 vote\(s\)"),
        (torch.ones(3, 4), "9", 1, "no layer '9' with weights"),
        (torch.ones(4, 3), "0", 1, "they are of another network"),
    ],
)
def test_votes_that_cannot_be_used_are_named(counts, layer, least, message):
    with pytest.raises(LancetError, match=message):
        isolated(nn.Sequential(nn.Linear(4, 3)), votes_of(counts), layer, least_votes=least)


def test_a_visualised_class_is_bright_where_the_class_reads_brightness():
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[8.0, 0, 0, -8], [-8, 0, 0, 8]]))
    images = visualise(model, torch.tensor([0, 1]), (1, 8, 8), steps=40)
    assert images.shape == (2, 1, 8, 8) and images.min() >= 0 and images.max() <= 1
    assert (model(images).argmax(1) == torch.tensor([0, 1])).all()
    assert images[0, 0, :3, :3].mean() > 0.8 and images[0, 0, -3:, -3:].mean() < 0.2
    assert images[1, 0, :3, :3].mean() < 0.2
    assert torch.equal(images, visualise(model, torch.tensor([0, 1]), (1, 8, 8), steps=40))
    assert not torch.equal(images, visualise(model, torch.tensor([0, 1]), (1, 8, 8), steps=40, seed=1))
    with pytest.raises(LancetError, match="no class to visualise"):
        visualise(model, torch.zeros(0, dtype=torch.int64), (1, 8, 8))


def test_blurring_the_cause_corrects_and_blurring_beside_it_does_not():
    images, places = spotted()
    model, labels, predicted = SharpSpot(), torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    cause = torch.zeros(3, 1, 16, 16)
    for k, (row, column) in enumerate(places):
        cause[k, 0, row - 2 : row + 3, column - 2 : column + 3] = 1
    beside = torch.zeros_like(cause)
    beside[:, :, 13:, :3] = 1
    found = blurred(model, images, labels, predicted, cause, [0, 2.0], batch=2)
    odds = model.eval()(images).softmax(1)
    torch.testing.assert_close(found.wrong_confidence[0], odds[:, 1])
    torch.testing.assert_close(found.true_confidence[0], odds[:, 0])
    assert (found.predicted == torch.tensor([[1, 1, 1], [0, 0, 0]])).all()
    assert (found.wrong_confidence[1] < found.wrong_confidence[0]).all()
    other = blurred(model, images, labels, predicted, beside, [0, 2.0])
    assert (other.predicted == 1).all()
    with pytest.raises(LancetError, match=r"want \(1, H, W\) for each"):
        blurred(model, images, labels, predicted, cause[:1], [1.0])
