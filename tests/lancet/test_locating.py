"""lib.lancet.locating: the same error-inducing sets as one candidate at a time, and what is said of bad input."""

import copy
import math
import sys

import pytest
import torch
from torch import nn

from benchmarks.locate import important, one_by_one
from lancet import nets
from lib.lancet import locating
from lib.lancet.errors import LancetError
from lib.lancet.locating import ablation, tail
from lib.lancet.locating.tail import Network

module = sys.modules["lib.lancet.locating.locate"]  # its function has the same name
NETS = [nets.Plain, nets.Residual]


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(
    ("formula", "until", "signed"),
    [("constant", "label", False), ("both", "label", False), ("constant", "not-target", True)],
)
def test_every_pairs_set_is_that_of_the_search_one_by_one(kind, formula, until, signed):
    model = nets.make(kind)
    pairs = nets.pairs(model)
    found = locating.locate(model, *pairs, formula=formula, until=until, signed=signed)
    expected, *_ = one_by_one(model, pairs, kind.features, formula, until, signed)
    assert set(found) == set(expected)
    assert sum(bool(chosen) for sets in expected.values() for chosen in sets) > 5  # something to agree on
    for layer, sets in expected.items():
        counts = torch.zeros(found[layer].counts.numel(), dtype=torch.int32)
        for chosen in sets:
            counts[sorted(chosen)] += 1
        assert found[layer].counts.flatten().tolist() == counts.tolist(), layer
        assert found[layer].repaired.tolist() == [bool(chosen) for chosen in sets]
        sizes = [len(chosen) / len(counts) if chosen else math.nan for chosen in sets]
        assert found[layer].fractions.tolist() == pytest.approx(sizes, nan_ok=True, rel=1e-5)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("formula", tail.FORMULAS)
def test_importance_is_that_of_autograd_through_the_whole_network(kind, formula):
    model = nets.make(kind).double()
    images, others, labels = nets.pairs(model.float())
    exact = Network(model, torch.float64)
    with torch.no_grad():
        ours, theirs = exact.record(images), exact.record(others)
        points = exact.points()
        found = tail.error_features(exact, points, ours, theirs, labels)
        for point in points:
            got = tail.importance(exact, point, ours, theirs, *found[point.layer], formula)
            for k in range(len(images)):
                with torch.enable_grad():
                    pair = (images[k], others[k], labels[k])
                    wanted = important(model.double(), point.layer, kind.features[point.layer], pair, formula, False)
                torch.testing.assert_close(got[k], wanted.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", NETS)
def test_tensor_operations_find_what_the_compiled_loop_finds(kind, monkeypatch):
    model = nets.make(kind, seed=3)
    pairs = nets.pairs(model)
    compiled = locating.locate(model, *pairs)
    monkeypatch.setattr(module, "search", lambda *args: ablation.search(*args, tensors=True))
    for layer, got in locating.locate(model, *pairs).items():
        assert torch.equal(got.counts, compiled[layer].counts), layer


def test_groups_of_pairs_give_what_all_at_once_give(monkeypatch):
    model = nets.make(nets.Plain)
    pairs = nets.pairs(model, 7)
    whole = locating.locate(model, *pairs)
    monkeypatch.setattr(module, "MEMORY", 1)
    for layer, got in locating.locate(model, *pairs).items():
        assert torch.equal(got.counts, whole[layer].counts)
        torch.testing.assert_close(got.importance, whole[layer].importance, rtol=1e-5, atol=1e-7)
        assert torch.equal(got.repaired, whole[layer].repaired)


def test_the_network_is_left_as_it_was():
    model = nets.make(nets.Plain).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, others, labels = nets.pairs(model.eval())
    locating.locate(model.train(), images, others, labels)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_planted_error_is_found_where_it_was_planted():
    """A linear network that answers 1 because of one weight: that weight alone is the set, of every pair."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 9.0], [0, 0.5, 0, 0]]))
    inputs = torch.tensor([[0.8, 0.1, 0.2, 1.0], [0.6, 0.3, 0.0, 0.9]]).view(2, 1, 2, 2)
    companions = inputs.clone()
    companions[:, 0, 1, 1] = 0
    found = locating.locate(model, inputs, companions, torch.tensor([0, 0]))["1"]
    assert found.counts.tolist() == [[0, 0, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]]
    assert found.fractions.tolist() == pytest.approx([1 / 12, 1 / 12])
    assert found.order().tolist() == [7] and found.share == 1


def test_the_ladder_is_that_of_the_paper():
    parts = ablation.fractions()
    assert len(parts) == 54 and parts[0] == pytest.approx(1e-6) and parts[-1] == pytest.approx(0.9)
    assert ablation.counts_of(parts, 1000, 1000)[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30]
    assert ablation.counts_of(parts, 1000, 25)[-1] == 25 and ablation.counts_of(parts, 10, 0) == []
    assert ablation.refined(0.3) == pytest.approx([0.21 + 0.01 * k for k in range(10)])
    assert ablation.refined(1e-3) == pytest.approx([1e-4 * k for k in range(1, 11)])
    assert ablation.refined(1.0)[-1] == pytest.approx(1.0)


def test_ties_go_by_index_and_zero_comes_last():
    values = torch.tensor([[0.5, 2.0, 0.5, 0.0, 2.0], [0.0, 0.0, 1e-30, 3.0, 1e-30]])
    assert ablation.descending(values).tolist() == [[1, 4, 0, 2, 3], [3, 2, 4, 0, 1]]


@pytest.mark.parametrize("levels", [1, 3, 1000, 2**24])
def test_the_order_is_that_of_a_stable_sort(levels):
    draw = torch.Generator().manual_seed(levels)
    values = torch.randint(0, levels, (3, 5000), generator=draw) / levels  # few levels: many ties
    values *= 10.0 ** torch.randint(-44, 38, (3, 1), generator=draw)  # from subnormal to nearly the largest
    values[0, ::7] *= -0.0
    assert torch.equal(ablation.descending(values), values.argsort(dim=1, descending=True, stable=True))


def made(layer, shares, size=100):
    repaired = torch.tensor([share > 0 for share in shares])
    sizes = torch.tensor([share if share else math.nan for share in shares])
    return module.Votes(layer, torch.ones(size, dtype=torch.int32), torch.ones(size), repaired, sizes)


def test_layers_are_chosen_by_the_rules():
    found = {
        "early": made("early", [0.3] * 100),
        "near": made("near", [0.2] * 99 + [0]),
        "late": made("late", [0.01] * 85 + [0] * 15),
        "poor": made("poor", [0.001] * 50 + [0] * 50),
    }
    assert module.choose_layer(found) == "near"  # 99 of 100 is very close to 100, with a smaller part
    assert module.choose_layer(found, "smallest-fraction") == "late"
    with pytest.raises(LancetError, match=r"no pair is repaired in any of the layers \['none'\]"):
        module.choose_layer({"none": made("none", [0, 0])})
    with pytest.raises(LancetError, match="rule is 'best'"):
        module.choose_layer(found, "best")


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x.flatten(1)) if x.sum() > 0 else self.fc(-x.flatten(1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 1, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv(self.conv(x)).flatten(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": "right"}, "the network is right on all 4 inputs: there is no error"),
        ({"labels": "some"}, "right on 1 of 4 inputs: leave those pairs out"),
        ({"companions": 3}, r"companions \(3, 2, 12, 12\)"),
        ({"layers": ["conv9"]}, r"layers names \['conv9'\]"),
        ({"formula": "all"}, "formula is 'all': one of constant, both"),
        ({"until": "now"}, "until is 'now': one of label, not-target"),
    ],
)
def test_what_is_said_of_input_that_cannot_be_used(change, message):
    model = nets.make(nets.Plain)
    images, others, labels = nets.pairs(model)
    if "labels" in change:
        right = model(images).argmax(1)
        which = slice(None) if change.pop("labels") == "right" else slice(1)
        labels[which] = right[which]
    others = others[: change.pop("companions", len(others))]
    with pytest.raises(LancetError, match=message):
        locating.locate(model, images, others, labels, **change)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Branching, "cannot be traced by torch.fx"), (Twice, r"layers \['conv'\] are called more than")],
)
def test_networks_that_cannot_be_searched(kind, message):
    images = torch.rand(2, 1, 2, 2)
    with pytest.raises(LancetError, match=message):
        locating.locate(kind(), images, images, torch.tensor([0, 1]))


@pytest.mark.parametrize("seed", range(8))
def test_a_repair_holds_on_the_network_itself_where_nothing_but_rounding_is_left_of_its_logits(seed):
    """A last layer without a bias: with all of its weights gone every logit is 0, and rounding must not decide."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 5, bias=False)).eval()
    images, companions = torch.rand(2, 12, 3, 4, 4)
    with torch.no_grad():
        labels = network(images).topk(2).indices[:, 1]
    for pair in range(len(images)):
        one = slice(pair, pair + 1)
        votes = locating.locate(network, images[one], companions[one], labels[one], layers=["3"])["3"]
        if votes.repaired[0]:
            without = copy.deepcopy(network)
            with torch.no_grad():
                without[3].weight.masked_fill_(votes.counts > 0, 0)
                assert without(images[one]).argmax() == labels[pair]
