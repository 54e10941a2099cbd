"""Every method on every torchvision family: right, or refused by name."""

import copy

import pytest
import torch
from torch import nn

from graph import families
from lib import attacks, dynamic, lancet, robustness, slicing
from lib.dynamic.channels import gated_sites, left_whole
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch.build import masked, shrink
from lib.graph import Network
from lib.models.layers import weight_layers

pytestmark = pytest.mark.slow
REPAIRED: dict[str, int] = {}  # family -> layers in which a pair could be repaired


@pytest.fixture(scope="module", params=families.FAMILIES)
def family(request):
    return request.param, *families.build(request.param)


def test_slices_do_not_depend_on_the_batch_and_hold_the_last_layer(family):
    name, model, images = family
    last = [node for node in Network(model).nodes if node.op == "call_module"]
    layer = next(
        str(n.target) for n in reversed(last) if isinstance(model.get_submodule(str(n.target)), (nn.Conv2d, nn.Linear))
    )
    if not families.FAMILIES[name][2]:
        with pytest.raises(slicing.SlicingError, match="cannot be sliced: known are"):
            slicing.effective_path(model, images[:1], layers=[layer])
        return
    first = next(iter(weight_layers(model)))
    together = slicing.effective_path(model, images[:2], layers=[first, layer])
    alone = slicing.effective_path(model, images[1:2], layers=[first, layer])
    for kept in (first, layer):
        assert (together.synapses[kept] != 0).any()
        assert torch.equal(together.synapses[kept][1], alone.synapses[kept][0])


def test_profiles_slices_and_a_sweep_of_one_image_are_those_of_a_batch(family):
    name, model, images = family
    with torch.no_grad():
        labels = model(images).argmax(1)
    found = robustness.fgsm_sweep(model, images, labels, [0.0, 0.1])
    assert found.accuracy[0] == 1.0 and 0 <= found.accuracy[1] <= 1
    made = attacks.attack("fgsm_8", model, images[:1], labels[:1])
    assert made.images.shape == images[:1].shape and float((made.images - images[:1]).abs().max()) <= 8 / 255 + 1e-6
    if not families.FAMILIES[name][2]:
        with pytest.raises(slicing.SlicingError):
            slicing.profile(model, images, labels, 5)
        return
    layer = list(weight_layers(model))[-1]
    exact, images = copy.deepcopy(model).double(), images.double()  # sums over a batch may be rounded otherwise
    profile = slicing.profile(exact, images, labels, 5)
    together = slicing.slice(exact, images[:2], profile, reference="dataset", layers=[layer])
    alone = slicing.slice(exact, images[1:2], profile, reference="dataset", layers=[layer])
    assert torch.equal(together.synapses[layer][1], alone.synapses[layer][0])


def test_located_weights_repair_when_zeroed(family):
    name, model, images = family
    with torch.no_grad():
        labels = model(images).topk(2).indices[:, 1]
    layers = list(weight_layers(model))
    called = {str(node.target) for node in Network(model).nodes if node.op == "call_module"}
    layers = [layer for layer in layers if layer in called]
    repaired = 0
    for layer in (layers[-1], layers[len(layers) // 2])[: 1 if len(images[0, 0]) > 100 else 2]:
        votes = lancet.locate(model, images[:1], images[1:2], labels[:1], layers=[layer])[layer]
        if not bool(votes.repaired[0]):
            continue
        flipped, _ = lancet.flip(model, {layer: votes}, images[:1], labels[:1])
        assert not torch.equal(weight_layers(flipped)[layer].weight, weight_layers(model)[layer].weight)
        changed = copy.deepcopy(model)
        with torch.no_grad():
            weight_layers(changed)[layer].weight.masked_fill_(votes.counts > 0, 0)
            assert int(changed(images[:1]).argmax()) == int(labels[0])
        repaired += 1
    REPAIRED[name] = repaired
    assert len(REPAIRED) < len(families.FAMILIES) or sum(map(bool, REPAIRED.values())) > 8


def test_channels_that_go_leave_what_masking_them_leaves(family):
    name, model, images = family
    if not families.FAMILIES[name][3]:
        with pytest.raises(DynamicError, match="there is nothing that a gate could prune"):
            gated_sites(model)
        return
    found = gated_sites(model)
    generator = torch.Generator().manual_seed(0)
    keep = {layer: torch.rand(site.channels, generator=generator) < 0.6 for layer, site in found.items()}
    keep = {layer: mask if mask.any() else ~mask for layer, mask in keep.items()}
    double = copy.deepcopy(model).double().eval()
    with torch.no_grad(), masked(double, keep):
        wanted = double(images.double())
    with torch.no_grad():
        got = shrink(double, keep)(images.double())
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    convolutions = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(left_whole(model)) <= convolutions - set(found)


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_pruning_from_scratch_from_end_to_end(name):
    model, _ = families.build(name)
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(8) % 4
    gates = dynamic.learn_gates(model, images, labels, epochs=1, batch=4, validation=0.5)
    found = dynamic.search_threshold(model, gates, 0.9, (3, 64, 64))
    assert dynamic.build_pruned(model, found, seed=0)(images[:2]).shape == (2, 5)
