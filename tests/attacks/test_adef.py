"""ADef: deformations by hand, the linearised step, and small smooth fields on a trained network."""

import pytest
import torch

from attacks.nets import Trained, generator, linear, target
from lib.attacks import ADef
from lib.attacks.adef import compose, deform, largest_displacement
from lib.attacks.goal import ClearlyMisclassified, Goal
from lib.attacks.smoothing import gaussian_matrix, smooth


def waves(count: int = 2, size: int = 24, channels: int = 1) -> torch.Tensor:
    """Smooth images that are 0.5 at the border."""
    line = torch.linspace(0, 3.14159, size)
    bump = (line.sin()[:, None] * line.sin()) ** 2
    random = generator(2)
    tilt = torch.rand(count, channels, 1, 1, generator=random) + (2 * line).cos() * (line[:, None]).cos()
    return 0.5 + 0.2 * bump * tilt


def test_a_field_of_zeros_changes_nothing():
    images = torch.rand(2, 3, 7, 9)
    assert torch.allclose(deform(images, torch.zeros(2, 2, 7, 9)), images, atol=1e-6)


def test_displacements_are_pixels_along_rows_then_columns():
    images = torch.rand(1, 2, 6, 8)
    field = torch.zeros(1, 2, 6, 8)
    field[:, 0] = 1
    assert torch.allclose(deform(images, field)[:, :, :-1], images[:, :, 1:], atol=1e-5)
    assert torch.allclose(deform(images, field)[:, :, -1], torch.zeros(8), atol=1e-5)
    half = torch.zeros(1, 2, 6, 8)
    half[:, 1] = 0.5
    between = (images[..., 1:] + images[..., :-1]) / 2
    assert torch.allclose(deform(images, half)[..., :-1], between, atol=1e-5)
    assert float(largest_displacement(3 * field + 8 * half)) == pytest.approx(5)


def test_composed_fields_deform_as_one_after_the_other():
    images = waves()
    random = generator(0)
    matrix = gaussian_matrix(24, 3.0)
    outer, inner = (6 * smooth(torch.randn(2, 2, 24, 24, generator=random), matrix, matrix) for _ in range(2))
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    twice = deform(deform(images, outer), inner)[inside]
    once = deform(images, compose(outer, inner))[inside]
    added = deform(images, outer + inner)[inside]
    assert float((twice - once).abs().max()) < 0.01
    assert float((twice - once).abs().mean()) < 0.5 * float((twice - added).abs().mean())
    assert torch.equal(compose(torch.zeros_like(inner), inner), inner)


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_the_step_lifts_the_linearised_gap_to_zero(smoothing):
    random = generator(1)
    images = waves(3)
    weight = torch.randn(2, 24 * 24, generator=random)
    model = linear(weight, (1, 24, 24), bias=torch.tensor([0.0, -40.0]))
    attack = ADef(smoothing=smoothing)
    matrix = gaussian_matrix(24, smoothing, "constant")
    base, others = torch.zeros(3, dtype=torch.int64), torch.ones(3, 1, dtype=torch.int64)
    deformed = images.clone().requires_grad_(True)
    logits = model(deformed)
    field = attack._step(logits, deformed, base, others, matrix, matrix)
    down, right = torch.gradient(images, dim=(2, 3))
    slope = torch.cat([down, right], dim=1) * (weight[1] - weight[0]).view(1, 1, 24, 24)
    gap = (logits[:, 1] - logits[:, 0]).detach()
    assert torch.allclose((slope * field).flatten(1).sum(dim=1), -gap, rtol=1e-3)
    # The least of all fields that do so is along the slopes.
    if smoothing == 0:
        assert torch.allclose(
            field, slope * (-gap / slope.flatten(1).square().sum(dim=1))[:, None, None, None], rtol=1e-3
        )


def test_takes_the_class_that_needs_the_smallest_displacement():
    weight = torch.randn(3, 24 * 24, generator=generator(3))
    images = waves(2)
    attack, matrix = ADef(), gaussian_matrix(24, 1.0, "constant")

    def field(*others: int) -> torch.Tensor:
        deformed = images.clone().requires_grad_(True)
        logits = linear(weight, (1, 24, 24), torch.tensor([0.0, -20, -60]))(deformed)
        base = torch.zeros(2, dtype=torch.int64)
        return attack._step(logits, deformed, base, torch.tensor([others] * 2), matrix, matrix)

    smaller = largest_displacement(field(1)) < largest_displacement(field(2))
    wanted = torch.where(smaller[:, None, None, None], field(1), field(2))
    assert torch.equal(field(1, 2), wanted) and torch.equal(field(2, 1), wanted)


def test_deformations_of_a_trained_network_are_small_and_smooth(trained: Trained):
    goal = Goal(target(trained.model), ClearlyMisclassified(trained.labels))
    fields = ADef().fields(goal.model, trained.images, goal)
    found = largest_displacement(fields) > 0
    assert float(found.double().mean()) > 0.8
    fields = fields[found]
    assert float(largest_displacement(fields).median()) < 2
    rough = ADef(smoothing=0.0).fields(goal.model, trained.images, goal)[found]
    assert _roughness(fields) < 0.5 * _roughness(rough)
    deformed = deform(trained.images[found], fields)
    assert bool(goal.fools(deformed, found.nonzero()[:, 0]).all())


def _roughness(fields: torch.Tensor) -> float:
    """How much a field changes from pixel to pixel, relative to its size; the median over fields."""
    jumps = fields.diff(dim=2).flatten(1).norm(dim=1) + fields.diff(dim=3).flatten(1).norm(dim=1)
    return float((jumps / fields.flatten(1).norm(dim=1).clamp(min=1e-9)).median())


def test_an_image_without_slopes_cannot_be_deformed():
    model = linear(torch.randn(2, 36, generator=generator(1)), (1, 6, 6), bias=torch.tensor([90.0, 0.0]))
    images = torch.full((1, 1, 6, 6), 0.5)
    made, _, success = ADef()(target(model), images, torch.tensor([0]), epsilons=None)
    assert torch.equal(made, images) and not success.any()


def test_larger_displacements_than_allowed_are_given_up(trained: Trained):
    goal = Goal(target(trained.model), trained.labels)
    sizes = largest_displacement(ADef().fields(goal.model, trained.images, goal))
    limit = float(sizes[sizes > 0].median())
    limited = largest_displacement(ADef(max_norm=limit).fields(goal.model, trained.images, goal))
    assert float(limited.max()) <= limit
    assert 0 < int((limited > 0).sum()) < int((sizes > 0).sum())
