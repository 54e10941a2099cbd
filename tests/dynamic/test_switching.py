"""Which channels run for which images: closed forms, and both kinds of network beside what their passes use."""

import math

import pytest
import torch

from dynamic.deciding import image_set, network
from lib import models
from lib.dynamic.boosting import FeatureBoosting
from lib.dynamic.errors import DynamicError
from lib.dynamic.switching import running, switching


def test_closed_forms():
    labels = torch.arange(400) % 2
    on = torch.stack(
        [torch.ones(400), torch.zeros(400), labels.float(), (torch.arange(400) // 2 % 2).float()], 1
    ).bool()
    found = switching(on, labels, 2, permutations=20)
    assert found.share == 0.5 and found.ceiling == 1 and found.always == found.never == 0.25
    assert found.entropy == pytest.approx((0 + 0 + 1 + 1) / 4)
    assert found.information == pytest.approx((0 + 0 + 1 + 0) / 4, abs=1e-9)
    assert 0 < found.baseline < 0.01


def test_a_static_choice_has_no_entropy_and_less_than_its_ceiling():
    on = torch.zeros(100, 8, dtype=torch.bool)
    on[:, :2] = True
    found = switching(on, torch.arange(100) % 5, 5, permutations=20)
    assert found.entropy == found.information == 0
    assert found.ceiling == pytest.approx(-(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)))
    assert (found.always, found.never) == (0.25, 0.75)


def test_what_runs_is_what_a_pass_uses():
    model = network()
    with torch.no_grad():
        model.unit(model.layers[0]).masks[:, 0] = 0  # a channel that no row has
    images = image_set(model, 30)
    found = running(model, images, batch=7)
    passed = model.run(images.float())
    assert list(found) == model.layers and not found[model.layers[0]][:, 0].any()
    for layer, on in found.items():
        assert torch.equal(on, passed.masks[layer] != 0)


def test_feature_boosting_runs_its_largest_gates():
    torch.manual_seed(0)
    model = FeatureBoosting(models.build("resnet20", (1, 16, 16), 4, width=4), 0.5, (1, 16, 16)).eval()
    images = image_set(network(), 30)
    found = running(model, images, batch=8)
    with torch.no_grad():
        gates, kept = model.gates(images.float()), model.kept()
    assert list(found) == model.layers
    for layer, saliency in zip(model.layers, model.saliency, strict=True):
        assert torch.equal(found[layer], gates[layer] > 0)
        assert (found[layer].sum(1) <= kept[layer]).all() and found[layer].any()
        smallest = torch.where(found[layer], saliency, torch.inf).amin(1)
        assert (saliency.masked_fill(found[layer], -torch.inf).amax(1) <= smallest).all()


def test_another_network_is_refused():
    with pytest.raises(DynamicError, match="does not choose channels"):
        running(models.build("resnet20", (1, 16, 16), 4, width=4), image_set(network(), 4))
