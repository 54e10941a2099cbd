"""What is kept of a network's decisions, units that were never trained, and the ordinary network of fixed masks."""

import numpy as np
import pytest
import torch

from dynamic import deciding
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.controls import static_network
from lib.dynamic.lcs.features import choices, see, untrained_feature
from lib.dynamic.lcs.network import LayerwiseChannelSelection


@pytest.fixture(scope="module")
def network():
    return deciding.network()


@pytest.fixture(scope="module")
def image_set(network):
    return deciding.image_set(network)


def test_what_is_seen_is_what_the_network_does(network, image_set):
    seen = see(network, image_set, batch=100)
    with torch.no_grad():
        assert torch.allclose(seen.logits, network(image_set.images), atol=1e-5)
        assert torch.allclose(seen.feature, network.feature(image_set.images), atol=1e-6)
        chosen = network.chosen(image_set.images)
        head = network.network.linear(seen.penultimate)
    assert torch.allclose(head, seen.logits, atol=1e-4)
    assert torch.equal(choices(network, seen.feature), torch.stack([chosen[layer] for layer in network.layers], 1))
    # The decision follows from what the unit sees.
    first = network.unit(network.layers[0])
    wanted = (first.logit_scale * seen.pooled[network.layers[0]] @ first.weight.T).softmax(1)
    assert torch.allclose(seen.feature[:, :3], wanted, atol=1e-6)
    part = seen.take(np.array([3, 1]))
    assert torch.equal(part.logits, seen.logits[[3, 1]]) and len(part) == 2
    assert not any(module._forward_pre_hooks for module in network.modules())
    with pytest.raises(DynamicError, match="no images to look at"):
        see(network, image_set.images[:0])


def test_untrained_units_decide_from_the_same_inputs_by_other_rows(network, image_set):
    seen = see(network, image_set)
    found = untrained_feature(network, seen.pooled, seed=5)
    assert found.shape == seen.feature.shape
    assert torch.allclose(found.view(len(found), -1, 3).sum(2), torch.ones(1))
    assert torch.equal(found, untrained_feature(network, seen.pooled, seed=5))
    assert not torch.allclose(found, seen.feature, atol=0.05)
    # The very rows of the network, drawn as a new unit draws them, give its own decisions.
    fresh = LayerwiseChannelSelection(network.plain(), 3, "standardised", logit_scale=2.0, seed=5)
    first = network.layers[0]
    logits = 2.0 * seen.pooled[first] @ fresh.unit(first).weight.detach().T
    assert torch.allclose(found[:, :3], logits.softmax(1), atol=1e-5)


def test_fixed_masks_in_an_ordinary_network_compute_the_same(network, image_set):
    masks = {layer: network.unit(layer).masks[1].detach() for layer in network.layers}
    plain = static_network(network, masks)
    images = image_set.images[:20]
    with torch.no_grad(), network.choosing("static", masks=masks):
        assert torch.allclose(plain(images), network(images), atol=1e-3)
        assert not torch.allclose(plain(images), network.plain()(images), atol=1e-2)
    assert not any(type(module).__name__ == "PaddedShortcut" for module in plain.modules())
