"""Smallest eps against closed forms, a ray that comes back, and a search point by point."""

import math

import pytest
import torch
from torch import Tensor, nn

from lib.robustness import fgsm_correct, minimal_epsilons, smallest_epsilons
from lib.robustness.masking import exact_sign_gradient
from robustness.nets import batch, small


class Line(nn.Module):
    """Class 0 where x_0 is above x_1, the logits concave in their difference: at distance half of it, in L_inf."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        above = images.flatten(1)[:, 0] - images.flatten(1)[:, 1]
        margin = self.weight * (above - 0.5 * above.square())
        return torch.stack([margin, -margin], dim=1)


class Band(nn.Module):
    """Wrong where pixel 0 lies in a band, right on both sides of it; the gradient is always negative."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)[:, 0]
        inside = ((x > self.low) & (x < self.high)).to(x)
        margin = self.weight * (x * 1e-3 + 1) - 2 * inside
        return torch.stack([margin, -margin], dim=1)


PAIRS = torch.tensor([[0.8, 0.2], [0.6, 0.5], [0.3, 0.6]]).view(3, 1, 1, 2)
ZEROS = torch.zeros(3, dtype=torch.int64)


def test_closed_form_of_a_plane():
    found = smallest_epsilons(Line(), PAIRS, ZEROS, largest=0.5, steps=10, halvings=10)
    assert found.epsilon.tolist() == pytest.approx([0.3, 0.05, 0.0], abs=0.5 / 10 / 2**10 + 1e-6)
    assert not found.returns.any()
    minimal = minimal_epsilons(Line(), PAIRS, ZEROS, steps=200)
    assert minimal.tolist() == pytest.approx([0.3, 0.05, 0.0], abs=0.01)


def test_infinite_where_the_grid_ends_before_the_boundary():
    found = smallest_epsilons(Line(), PAIRS, ZEROS, largest=0.1, steps=4)
    assert found.epsilon.isinf().tolist() == [True, False, False]


def test_a_ray_that_comes_back_is_found_at_its_first_crossing():
    image = torch.full((1, 1, 1, 2), 0.9)
    found = smallest_epsilons(Band(0.5, 0.62), image, torch.zeros(1, dtype=torch.int64), 0.8, steps=16, halvings=12)
    assert float(found.epsilon) == pytest.approx(0.28, abs=1e-4)  # 0.9 - 0.62; bisection of the whole ray finds none
    assert found.returns.tolist() == [True]


def test_agrees_with_a_search_point_by_point_of_fgsm():
    model, (images, labels) = small(), batch(40)
    steps, largest, halvings = 8, 0.2, 3
    found = smallest_epsilons(model, images, labels, largest, steps, halvings, batch_size=7)
    fine = [largest * k / (steps * 2**halvings) for k in range(steps * 2**halvings + 1)]
    right = fgsm_correct(model, images, labels, fine, gradient=exact_sign_gradient)
    grid = right[:: 2**halvings]
    assert torch.equal(found.epsilon.isinf(), grid.all(dim=0))
    for image, epsilon in enumerate(found.epsilon.tolist()):
        if math.isinf(epsilon):
            continue
        place = round(epsilon * steps * 2**halvings / largest)
        assert epsilon == pytest.approx(fine[place], abs=1e-12) and not right[place, image]
        if place:
            assert right[place - 1, image]  # a crossing, in the bracket of the grid's first error
            assert int((~grid[:, image]).int().argmax()) == -(-place // 2**halvings)
    first = [int((~column).int().argmax()) for column in grid.T]
    expected = [not column.all() and bool(column[at:].any()) for column, at in zip(grid.T, first, strict=True)]
    assert found.returns.tolist() == expected


def test_zero_is_exactly_where_the_image_is_wrong_as_it_is():
    model, (images, labels) = small(), batch(40)
    with torch.no_grad():
        wrong = model(images).argmax(1) != labels
    assert torch.equal(smallest_epsilons(model, images, labels, 0.1, 5).epsilon == 0, wrong)
    assert torch.equal(minimal_epsilons(model, images, labels, 5) == 0, wrong)


def test_the_minimal_attack_fools_at_its_distance_and_leaves_the_network_as_it_was():
    model, (images, _) = small(), batch(30)
    with torch.no_grad():
        labels = model(images).argmax(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    minimal = minimal_epsilons(model, images, labels, 40)
    ray = smallest_epsilons(model, images, labels, 1.0, 200).epsilon
    assert minimal.isfinite().all() and float(minimal.median()) <= float(ray.median())
    assert torch.equal(minimal, minimal_epsilons(model, images, labels, 40))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("changed", [{"largest": 0}, {"largest": 1.5}, {"steps": 0}, {"halvings": -1}])
def test_settings_outside_their_range_are_refused(changed):
    with pytest.raises(ValueError, match="need 0 < largest <= 1"):
        smallest_epsilons(Line(), PAIRS, ZEROS, **changed)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        minimal_epsilons(Line(), PAIRS, ZEROS, steps=0)
