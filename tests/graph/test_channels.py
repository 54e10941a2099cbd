"""Which channels can go, in networks of users' own: exactly, or left whole with the reason."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from lib import dynamic
from lib.dynamic.channels import gated_sites, left_whole, sites
from lib.dynamic.scratch.build import masked, shrink
from lib.graph import copied
from lib.slicing import masks


class Small(nn.Module):
    """Two convolutions behind one another, in the way that `how` says."""

    def __init__(self, how):
        super().__init__()
        self.how, self.relu = how, nn.ReLU(inplace=True)
        self.a, self.bn, self.b, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3), nn.Linear(16, 5)
        self.aux, self.tokens = nn.Conv2d(6, 5, 1), nn.Linear(36, 16)

    def forward(self, x):
        x = self.bn(self.a(x))
        if self.how == "statement":
            self.relu(x)
        elif self.how == "sigmoid":
            x = torch.sigmoid(x)
        else:
            x = F.relu(x, inplace=True)
        if self.how == "positions":
            return self.fc(self.tokens(x.flatten(2)).mean(1))
        if self.how == "counts":
            x = x / x.size(1)
        if self.how == "statistics":
            x = F.layer_norm(x, x.shape[1:])
        out = F.max_pool2d(self.relu(self.b(x)), 2)
        out = self.fc(out.view(out.size(0), -1))
        return (out, self.aux(x).mean((2, 3))) if self.how == "auxiliary" and self.training else out


def settled(how):
    torch.manual_seed(0)
    model = Small(how).eval()
    model.bn.running_mean.normal_(0, 0.1)
    model.bn.running_var.uniform_(0.5, 2)
    return model.double()


IMAGES = torch.rand(5, 3, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("how", ["statement", "function"])
def test_what_goes_leaves_what_masking_leaves(how):
    model = settled(how)
    assert set(gated_sites(model)) == {"a"} and set(sites(model)) == {"a", "b"}
    assert sites(model)["b"].readers == {"fc": 4}
    keep = {"a": torch.tensor([1, 0, 1, 1, 0, 0]).bool(), "b": torch.tensor([0, 1, 1, 0]).bool()}
    with torch.no_grad(), masked(model, keep):
        wanted = model(IMAGES)
    narrow = shrink(model, keep)
    assert narrow.a.out_channels == 3 and narrow.fc.in_features == 8
    torch.testing.assert_close(narrow(IMAGES), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("how", "layer", "reason"),
    [
        ("sigmoid", "a", r"sigmoid\(\) .* does not carry each channel on its own"),
        ("positions", "a", r"\.flatten\(\) .* does not carry"),
        ("counts", "a", r"truediv\(\) .* does not carry|reads how many channels"),
        ("statistics", "a", r"layer_norm\(\) .* does not carry|reads how many channels"),
        ("auxiliary", "a", "while training, other layers read it"),
    ],
)
def test_what_cannot_be_cut_exactly_is_left_whole_and_named(how, layer, reason):
    model = settled(how)
    assert layer not in sites(model)
    with pytest.raises(dynamic.errors.DynamicError, match=f"{layer}: .*"):
        gated_sites(model)
    import re

    assert re.search(reason, left_whole(model)[layer])


def test_gates_of_a_parametrised_network_are_those_of_its_plain_copy():
    model = settled("function").float()
    prune.l1_unstructured(model.b, "weight", 0.4)
    given = (IMAGES.float().repeat(2, 1, 1, 1), torch.arange(10) % 2)
    options = {"epochs": 2, "batch": 4, "validation": 0.4, "learning_rate": 0.1}
    ours, plain = (dynamic.learn_gates(each, *given, **options) for each in (model, copied(model)))
    assert torch.equal(ours.values["a"], plain.values["a"])
    assert prune.is_pruned(model)
    narrow = shrink(model, {"a": torch.arange(6) < 3})
    assert narrow.b.weight.shape == (4, 3, 3, 3) and not prune.is_pruned(narrow)


def test_a_mask_on_computed_weights_is_refused_and_one_on_a_copy_holds():
    model = settled("function")
    prune.l1_unstructured(model.b, "weight", 0.4)
    mask = {"b": torch.zeros(4, 6, 3, 3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"weights of \['b'\] are computed at every call"):
        masks.apply(model, mask)
    changed = masks.apply(copied(model), mask)
    assert (changed.b.weight == 0).all() and (model.b.weight != 0).any()
    before = copy.deepcopy(model.state_dict())
    copied(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
