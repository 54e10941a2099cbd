"""APGD and Square: closed forms of a linear network, the ball, masked gradients, what is refused."""

import itertools

import pytest
import torch
from torch import nn

from lib.robustness import ScaledLogits, autoattack, autoattack_correct
from lib.robustness.autoattack import STAGES, dlr
from robustness.nets import batch, small

EPSILON = 0.05


def linear(classes=5, seed=0):
    """A network that is one matrix, and grey images far enough from 0 and 1 for a step to stay inside."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, 48, generator=generator))
        model[1].bias.zero_()
    return model, 0.3 + 0.4 * torch.rand(60, 3, 4, 4, generator=generator)


def withstands(model, images, labels, epsilon):
    """Whether no step of epsilon changes a linear network's class: no margin falls to 0 when it loses epsilon times the
    L1 norm of the difference of the two rows."""
    logits, weight = model(images), model[1].weight
    margins = logits.gather(1, labels[:, None]) - logits
    norms = (weight[labels][:, None] - weight[None]).abs().sum(-1)
    others = torch.arange(len(weight)) != labels[:, None]
    return ((margins - epsilon * norms > 0) | ~others).all(1)


@torch.no_grad()
def test_a_linear_network_is_broken_exactly_where_its_closed_form_says():
    model, images = linear()
    labels = model(images).argmax(1)
    epsilon = 0.02
    exact = withstands(model, images, labels, epsilon)
    assert 10 < exact.sum() < 50
    found = autoattack_correct(model, images, labels, epsilon, steps=50, queries=300)
    assert found.shape == (len(STAGES), 60) and found.dtype == torch.bool
    assert found[0].all()
    assert torch.equal(found[2], exact)
    assert torch.equal(found[3], exact)


def test_square_alone_breaks_a_linear_network_exactly_where_its_closed_form_says():
    model, images = linear()
    with torch.no_grad():
        labels = model(images).argmax(1)
        exact = withstands(model, images, labels, 0.02)
    left = autoattack._square(model, images, labels, 0.02, 3000, torch.Generator().manual_seed(0))
    assert torch.equal(left, exact)


def by_the_algorithm(model, x, y, epsilon, steps, generator):
    """Algorithm 1 for one image, number by number: the points that it looks at, and its last step size."""
    low, high = (x - epsilon).clamp(0, 1), (x + epsilon).clamp(0, 1)

    def look(at):
        at = at.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(at[None]), y[None])
        return loss.item(), torch.autograd.grad(loss, at)[0]

    noise = torch.rand(x.shape, generator=generator) * 2 - 1
    at = torch.minimum(torch.maximum(x + epsilon * noise / noise.abs().max(), low), high)
    value, gradient = look(at)
    points, values, best = [at], [value], (value, at, gradient)
    step, before, halved, best_then = 2 * epsilon, at, True, value
    length, since, rises = max(int(0.22 * steps), 1), 0, 0
    for k in range(steps):
        ahead = torch.minimum(torch.maximum(at + step * gradient.sign(), low), high)
        share = 0.75 if k else 1.0
        new = torch.minimum(torch.maximum(at + share * (ahead - at) + (1 - share) * (at - before), low), high)
        before, at = at, new
        value, gradient = look(at)
        points.append(at)
        rises, since = rises + (value > values[-1]), since + 1
        values.append(value)
        if value > best[0]:
            best = (value, at, gradient)
        if since == length:
            stuck = rises <= 0.75 * length or (not halved and best_then == best[0])
            if stuck:
                step, at, gradient = step / 2, best[1], best[2]
            halved, best_then, rises, since = stuck, best[0], 0, 0
            length = max(length - max(int(0.03 * steps), 1), int(0.06 * steps), 1)
    return points, step


def test_apgd_is_algorithm_1_by_hand():
    """On an image that is never broken it looks at every point, past checkpoints that halve the step."""
    model, (images, _) = small().eval(), batch()
    with torch.no_grad():
        logits = model(images)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    sure = (first - second).argmax()
    x, y, seen = images[sure], logits[sure].argmax(), []
    steps, epsilon = 40, 0.004

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, at):
            seen.append(at.detach().clone())
            return self.model(at)

    def loss(logits):
        return nn.functional.cross_entropy(logits, y[None], reduction="none")

    points, step = by_the_algorithm(model, x, y, epsilon, steps, torch.Generator().manual_seed(1))
    right = autoattack._apgd(Watched(), x[None], y[None], epsilon, loss, steps, torch.Generator().manual_seed(1))
    assert right.item() and step <= epsilon / 2  # halved twice or more
    assert len(seen) == len(points) == steps + 1
    assert all(torch.allclose(one[0], other, atol=1e-6) for one, other in zip(seen, points, strict=True))


def test_of_equal_logits_the_first_class_is_the_answer_all_along():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    labels = torch.tensor([0, 0, 1, 2])
    found = autoattack_correct(model, torch.rand(4, 3, 4, 4), labels, 0.1, steps=3, targets=2, queries=5)
    assert found.tolist() == [[True, True, False, False]] * 4


def test_bytes_are_images_and_a_label_without_a_logit_is_refused():
    model, (images, labels) = small().eval(), batch(8)
    pixels = (images * 255).to(torch.uint8)
    few = {"steps": 3, "targets": 1, "queries": 3}
    assert torch.equal(
        autoattack_correct(model, pixels, labels, 0.1, **few),
        autoattack_correct(model, pixels.float() / 255, labels, 0.1, **few),
    )
    with pytest.raises(ValueError, match="label is 9"):
        autoattack_correct(model, images, torch.full_like(labels, 9), 0.1, **few)


def test_each_attack_only_takes_from_what_is_left_and_the_seed_repeats():
    model, (images, labels) = small().eval(), batch()
    found = autoattack_correct(model, images, labels, 0.1, steps=10, targets=2, queries=50, seed=3)
    assert all((later <= before).all() for before, later in itertools.pairwise(found))
    assert torch.equal(found, autoattack_correct(model, images, labels, 0.1, steps=10, targets=2, queries=50, seed=3))


def test_nothing_leaves_the_ball_or_the_range_of_pixels():
    model, (images, labels) = small().eval(), batch()
    images[0], images[1] = 0.0, 1.0
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            seen.append(x.detach().clone())
            return self.model(x)

    with torch.no_grad():
        labels = model(images).argmax(1)
    autoattack_correct(Watched(), images, labels, EPSILON, steps=8, targets=2, queries=20)
    assert len(seen) > 20
    for at in seen:
        near = (at[:, None] - images[None]).abs().flatten(2).amax(2).amin(1)
        assert near.max() <= EPSILON + 1e-6
        assert at.min() >= 0 and at.max() <= 1


def test_logits_multiplied_hide_the_cross_entropy_and_nothing_else():
    model, images = linear()
    labels = model(images).argmax(1)
    loud = ScaledLogits(model, 1e4)
    plain, masked = (autoattack_correct(net, images, labels, 0.02, steps=30, queries=50) for net in (model, loud))
    assert masked[1].sum() > plain[1].sum() + 5
    assert torch.equal(masked[2], plain[2])


def test_dlr_by_hand_and_whatever_the_scale():
    logits = torch.tensor([[4.0, 1.0, 3.0, 0.0, 2.0]])
    labels, targets = torch.tensor([0]), torch.tensor([2])
    assert dlr(logits, labels, targets).item() == pytest.approx((3 - 4) / (4 - (2 + 1) / 2))
    assert torch.allclose(dlr(100 * logits, labels, targets), dlr(logits, labels, targets))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"steps": 0}, "at least 1"),
        ({"targets": 0}, "at least 1"),
        ({"queries": 0}, "at least 1"),
        ({"epsilon": 1.5}, "epsilons"),
    ],
)
def test_refuses_settings(given, match):
    images, labels = batch()
    with pytest.raises(ValueError, match=match):
        autoattack_correct(small(), images, labels, **{"epsilon": 0.1, **given})


def test_refuses_a_network_of_three_classes():
    model, images = linear(classes=3)
    with pytest.raises(ValueError, match="four classes"):
        autoattack_correct(model, images, model(images).argmax(1), 0.1)
