"""However a network is written, the methods give what they give for the plain network with equal weights."""

import copy

import pytest
import torch
from torch import nn

from graph import styles
from lib import lancet, slicing
from lib.graph import GraphError, Network
from lib.models.layers import weight_layers


@pytest.mark.parametrize("style", styles.STYLES)
def test_slices_are_those_of_the_plain_network(style):
    plain, other = styles.pair(style)
    x = styles.images(12)
    with torch.no_grad():
        assert torch.allclose(plain(x), other(x), atol=1e-4)
        labels = plain(x).argmax(1)
    known = [slicing.profile(model, x, labels, styles.CLASSES) for model in (plain, other)]
    for engine in ("compiled", "tensor"):
        ours, theirs = (
            slicing.slice(model, x[:4], each, reference="dataset", engine=engine)
            for model, each in zip((other, plain), known[::-1], strict=True)
        )
        for layer, value in theirs.synapses.items():
            name = {"c1": "branch.1", "c2": "branch.3"}.get(layer, layer) if layer not in ours.synapses else layer
            assert torch.equal(ours.synapses[name], value), layer
        assert torch.equal(ours.neurons["input"], theirs.neurons["input"])
        assert any((value != 0).any() for value in theirs.synapses.values())
    paths, plain_paths = (slicing.effective_path(model, x[:4]) for model in (other, plain))
    assert torch.equal(paths.neurons["input"], plain_paths.neurons["input"])
    for k in range(4):
        alone = slicing.effective_path(other, x[k : k + 1])
        for layer, value in alone.synapses.items():
            assert torch.equal(value[0], paths.synapses[layer][k])


@pytest.mark.parametrize("style", styles.STYLES)
def test_located_weights_repair_their_pair_when_zeroed_and_do_not_depend_on_the_others(style):
    plain, other = styles.pair(style, 2)
    x = styles.images(5, 3)
    with torch.no_grad():
        labels = other(x).topk(2).indices[:, 1]
    together = lancet.locate(other, x, x.flip(0), labels, layers=_once(other))
    wanted = lancet.locate(plain, x, x.flip(0), labels, layers=_once(plain))
    for layer, votes in wanted.items():
        name = {"c1": "branch.1", "c2": "branch.3"}.get(layer, layer) if layer not in together else layer
        assert torch.equal(votes.counts, together[name].counts), layer
    repaired = 0
    for layer, votes in together.items():
        for k in range(len(x)):
            alone = lancet.locate(other, x[k : k + 1], x.flip(0)[k : k + 1], labels[k : k + 1], layers=[layer])[layer]
            assert bool(alone.repaired[0]) == bool(votes.repaired[k])
            if alone.repaired[0]:
                changed = copy.deepcopy(other)
                with torch.no_grad():
                    weight_layers(changed)[layer].weight.masked_fill_(alone.counts > 0, 0)
                    assert int(changed(x[k : k + 1]).argmax()) == int(labels[k])
                repaired += 1
    assert repaired


def _once(model):
    """Layers that are called once."""
    calls = [str(node.target) for node in Network(model).nodes if node.op == "call_module"]
    return [name for name in weight_layers(model) if calls.count(name) == 1]


@pytest.mark.parametrize("how", styles.PARAMETRISED)
def test_parametrised_weights_are_folded_and_flipping_changes_the_network(how):
    torch.manual_seed(0)
    model = styles.settled(styles.Plain())
    styles.PARAMETRISED[how](model.c1)
    x = styles.images(20)
    with torch.enable_grad():
        model.eval()(x[:2])  # leaves computed tensors behind, which a copy must not stumble on
        labels = model(x).topk(2).indices[:, 1]
        before = model(x).detach()
    votes = lancet.locate(model, x, x.flip(0), labels, layers=["c1"])
    assert votes["c1"].repaired.any()
    repaired, report = lancet.flip(model, votes, x, labels, layer="c1")
    with torch.no_grad():
        after = repaired(x)
    assert report.flipped > 0 and not torch.equal(before, after)
    assert report.success_after == pytest.approx(float((after.argmax(1) != labels).float().mean()))
    assert torch.equal(before, model(x).detach())
    found = slicing.effective_path(model, x[:2])
    assert found.synapses["c1"].shape == (2, 6, 6, 3, 3) and (found.synapses["c1"] != 0).any()


def test_a_tensor_filled_at_an_index_is_followed_by_locating_and_refused_by_slicing():
    torch.manual_seed(0)
    model = styles.settled(styles.Assigned())
    x = styles.images(4)
    Network(model).verify(model, x)
    labels = model(x).topk(2).indices[:, 1]
    assert lancet.locate(model, x, x.flip(0), labels, layers=["c0"])["c0"].repaired.any()
    with pytest.raises(slicing.SlicingError, match=r"assigned\(\) in .* cannot be sliced"):
        slicing.effective_path(model, x)


class Broken(styles.Plain):
    def __init__(self, how):
        super().__init__()
        self.how = how
        if how == "no running statistics":
            self.bn = nn.BatchNorm2d(6, track_running_stats=False)
        if how == "a hook":
            self.c1.register_forward_hook(lambda module, inputs, output: output * 2)

    def forward(self, x):
        x = torch.relu(self.bn(self.c0(x)))
        y = self.c2(self.c1(x)) + x
        if self.how == "dropout":
            y = nn.functional.dropout(y)
        elif self.how == "mean over the batch":
            y = y - y.mean(0, keepdim=True)
        elif self.how == "a view":
            flat = y.flatten(2)
            y.relu_()
            return self.fc(flat[:, :, :4].flatten(1))
        elif self.how == "squeeze":
            return self.fc(nn.functional.adaptive_avg_pool2d(y, 2).flatten(1).squeeze())
        elif self.how == "two outputs":
            return self.fc(nn.functional.adaptive_avg_pool2d(y, 2).flatten(1)), y
        return self.fc(nn.functional.adaptive_avg_pool2d(y, 2).flatten(1))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no running statistics", "BatchNorm2d at 'bn' does not treat the images of a batch one by one"),
        ("mean over the batch", r"method \.mean\(\) .* does not treat the images|combines two activations"),
        ("a hook", "is not what it computes: .* first at Conv2d at 'c1'"),
        ("dropout", r"dropout\(\) in .* gives other values at each call"),
        ("a view", "reads flatten, whose memory relu_ .* has changed in place"),
        ("squeeze", r"method \.squeeze\(\) .* it is \(24,\) for one image and \(2, 24\) for two"),
        ("two outputs", "returns a tuple of several"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(how, message):
    torch.manual_seed(0)
    model = Broken(how).eval()
    with pytest.raises(GraphError, match=message):
        Network(model).verify(model, styles.images(2))
    with pytest.raises(slicing.SlicingError, match=message):
        slicing.effective_path(model, styles.images(2))
    with pytest.raises(lancet.errors.LancetError, match=message):
        lancet.locate(model, styles.images(2), styles.images(2), torch.tensor([0, 1]))


def test_wrappers_are_taken_off():
    plain = styles.settled(styles.Plain())
    x = styles.images(2)
    wanted = slicing.effective_path(plain, x).synapses
    for wrapped in (nn.DataParallel(plain), torch.compile(plain)):
        found = slicing.effective_path(wrapped, x).synapses
        assert found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)
    with pytest.raises(GraphError, match="TorchScript"):
        Network(torch.jit.trace(plain, x))


def test_layers_that_share_weights_are_named():
    model = styles.settled(styles.Plain())
    model.c1 = nn.Conv2d(6, 6, 1)
    model.c2.weight = model.c1.weight
    labels = model(styles.images(3)).topk(2).indices[:, 1]
    with pytest.raises(lancet.errors.LancetError, match=r"\['c1', 'c2'\] .* share their weights"):
        lancet.locate(model, styles.images(3), styles.images(3).flip(0), labels, layers=["c1", "c2"])
