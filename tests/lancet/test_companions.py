"""Companions: the region found is the one that misleads, whatever the batch, and the network stays as it was."""

import copy

import pytest
import torch
from torch.nn import functional as F

from lancet.defect_nets import SharpSpot, spotted
from lib.lancet.companions import apply, blur, companions
from lib.lancet.errors import LancetError
from lib.lancet.explanation import class_activation_map, grad_cam, hottest, last_convolution, random_regions

WAYS = {"mask_blur": 1.0, "image_blur": 2.0}


@pytest.fixture(scope="module")
def wrong():
    images, places = spotted()
    return images, torch.zeros(len(images), dtype=torch.int64), places


@pytest.mark.parametrize("method", ["hard", "stated"])
def test_a_companion_is_right_and_made_as_said(wrong, method):
    images, labels, _ = wrong
    model = SharpSpot().eval()
    assert (model(images).argmax(1) == 1).all()
    found = companions(model, images, labels, method=method, **WAYS)
    assert found.found.all() and (model(found.images).argmax(1) == labels).all()
    assert found.masks.min() >= 0 and found.masks.max() <= 1
    torch.testing.assert_close(found.images, images * (1 - found.masks) + blur(images, 2.0) * found.masks)


def test_a_hard_mask_is_small_clear_cut_and_where_the_error_is(wrong):
    images, labels, places = wrong
    found = companions(SharpSpot().eval(), images, labels, **WAYS)
    assert set(found.masks.unique().tolist()) == {0.0, 1.0}
    for mask, (row, column) in zip(found.masks, places, strict=True):
        assert mask[0, row, column] == 1
    assert found.area.max() < 0.06
    soft = companions(SharpSpot().eval(), images, labels, method="stated", **WAYS)
    assert ((soft.masks > 0.02) & (soft.masks < 0.98)).float().mean() > found.area.max()


@pytest.mark.parametrize("method", ["hard", "stated"])
def test_an_image_s_companion_does_not_depend_on_its_batch(wrong, method):
    images, labels, _ = wrong
    model = SharpSpot().eval()
    together = companions(model, images, labels, method=method, steps=60, **WAYS)
    alone = companions(model, images, labels, method=method, steps=60, batch=1, **WAYS)
    torch.testing.assert_close(together.masks, alone.masks, atol=1e-4, rtol=0)
    assert torch.equal(together.found, alone.found)


@pytest.mark.parametrize("method", ["hard", "stated"])
def test_one_that_cannot_be_found_is_said_and_left_as_it_is(wrong, method):
    images, labels, _ = wrong
    found = companions(SharpSpot(threshold=-100.0).eval(), images, labels, method=method, steps=5, **WAYS)
    assert not found.found.any()
    assert torch.equal(found.images, images) and not found.masks.any()


@pytest.mark.parametrize("method", ["hard", "stated"])
def test_an_input_that_is_right_needs_no_mask(wrong, method):
    images, labels, _ = wrong
    found = companions(SharpSpot().eval(), images, labels + 1, method=method, steps=5, **WAYS)
    assert found.found.all() and not found.masks.any() and torch.equal(found.images, images)


def test_the_network_is_left_as_it_was(wrong):
    images, labels, _ = wrong
    model = SharpSpot().train()
    model.conv.eval()
    before = copy.deepcopy(model.state_dict())
    companions(model, images, labels, steps=3, **WAYS)
    assert model.training and model.dropout.training and not model.conv.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "soft"}, "no method 'soft' for companions: one of hard, stated"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, "one each is wanted"),
        ({"images": torch.zeros(0, 1, 8, 8), "labels": torch.zeros(0, dtype=torch.int64)}, "with N from 1"),
        ({"images": torch.full((3, 1, 8, 8), 255.0)}, r"floating in \[0, 1\]"),
    ],
)
def test_bad_input_is_named(wrong, change, message):
    images, labels, _ = wrong
    with pytest.raises(LancetError, match=message):
        companions(SharpSpot(), **{"images": images, "labels": labels, **change})


def test_blur_is_a_gaussian_over_a_repeated_border():
    images = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    offsets = torch.arange(-3, 4.0)
    line = torch.exp(-0.5 * offsets**2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    wanted = torch.stack(
        [(padded[:, :, r : r + 7, c : c + 7] * kernel).sum((2, 3)) for r in range(9) for c in range(7)], -1
    )
    torch.testing.assert_close(blur(images, 1.0), wanted.view(2, 3, 9, 7))
    assert blur(images, 0) is images
    torch.testing.assert_close(blur(torch.full((1, 1, 8, 8), 0.3), 4.0), torch.full((1, 1, 8, 8), 0.3))
    with pytest.raises(LancetError, match="sigma of a blur is -1"):
        blur(images, -1)


def test_a_mask_mixes_the_image_and_its_blur():
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(apply(images, torch.zeros(2, 1, 8, 8), 2.0), images)
    torch.testing.assert_close(apply(images, torch.ones(2, 1, 8, 8), 2.0), blur(images, 2.0))


def test_grad_cam_is_the_activation_where_the_class_reads_its_mean():
    from torch import nn

    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[3].weight.copy_(torch.tensor([[-1.0], [3.0]]))
    images = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    heat = grad_cam(model, images, torch.tensor([1, 0]))
    torch.testing.assert_close(heat[0], images[0] / images[0].max())
    assert not heat[1].any()  # nothing speaks for class 0
    with pytest.raises(LancetError, match="no layer 'other'"):
        grad_cam(model, images, torch.tensor([1, 0]), layer="other")
    assert last_convolution(model) == "0"
    with pytest.raises(LancetError, match="has no Conv2d"):
        last_convolution(nn.Linear(2, 2))


def test_cam_is_grad_cam_at_the_features_whose_mean_is_classified():
    from torch import nn

    from lib.models.resnet import PreActResNet

    torch.manual_seed(0)
    model = PreActResNet((3, 32, 32), 5, nn.Identity(), (1, 1), width=8)  # its last features come of no convolution
    images, classes = torch.rand(5, 3, 32, 32), torch.tensor([0, 4, 2, 1, 3])
    heat = class_activation_map(model, images, classes, batch=2)
    torch.testing.assert_close(heat, grad_cam(model, images, classes, layer="relu"))
    assert model.training and not model.relu._forward_hooks


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda nn: [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)], "mean of a map"),
        (lambda nn: [nn.Conv2d(1, 2, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(2, 2)], "mean of a map"),
        (lambda nn: [nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()], "end in a linear layer"),
    ],
)
def test_cam_refuses_other_networks(layers, message):
    from torch import nn

    with pytest.raises(LancetError, match=message):
        class_activation_map(nn.Sequential(*layers(nn)), torch.rand(2, 1, 6, 6), torch.tensor([0, 1]))


def test_regions_are_as_large_as_asked_and_stay_outside():
    heat = torch.arange(16.0).view(1, 1, 4, 4)
    assert hottest(heat, torch.tensor([0.25])).flatten().tolist() == [0] * 12 + [1] * 4
    barred = torch.zeros(1, 1, 4, 4)
    barred[0, 0, 3] = 1
    assert hottest(heat, torch.tensor([0.25]), barred).flatten().tolist() == [0] * 8 + [1] * 4 + [0] * 4
    assert hottest(torch.zeros(1, 1, 2, 2), torch.tensor([0.5])).flatten().tolist() == [1, 1, 0, 0]
    assert hottest(heat, torch.tensor([1.0]), barred).sum() == 12
    masks = (torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.1).float()
    regions = random_regions(masks, seed=0, outside=masks)
    assert torch.equal(regions.sum((1, 2, 3)), masks.sum((1, 2, 3))) and not (regions * masks).any()
    assert torch.equal(regions, random_regions(masks, seed=0, outside=masks))
