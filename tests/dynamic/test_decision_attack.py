"""The attack that knows the decision feature, on networks small enough to know what it should find."""

import pytest
import torch
from torch.nn import functional as F

from lib.dynamic import decision_attack
from lib.dynamic.decision_attack import decision_pgd, observed
from lib.dynamic.errors import DynamicError


def two_sums(images):
    """Logits: the brightness of the left and of the right half; decisions: a softmax of that of the right's upper."""
    left, right = images[..., :2].mean((1, 2, 3)), images[..., 2:].mean((1, 2, 3))
    upper = 4 * (images[:, :, :2, 2:].mean((1, 2, 3)) - 0.5)
    return 20 * torch.stack([left, right], 1), torch.stack([upper, -upper], 1).softmax(1)


@pytest.fixture
def images():
    """Six grey images, whose left half is a little brighter: class 0."""
    found = 0.5 + 0.02 * torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found[..., :2] += 0.04
    return found


@pytest.fixture
def attacked(images):
    wanted = two_sums(images)[1]
    zeros = torch.zeros(6, dtype=torch.int64)

    def run(**more):
        settings = {"weight": 0.0, "epsilon": 0.1, "steps": 20, "spread": 0.01} | more
        return decision_pgd(two_sums, images, zeros, zeros + 1, wanted, **settings)

    return run


def test_it_fools_within_epsilon(images, attacked):
    made = attacked()
    assert made.success.all() and (two_sums(made.images)[0].argmax(1) == 1).all()
    assert (made.images - images).abs().max() <= 0.1 + 1e-6 and made.images.min() >= 0 and made.images.max() <= 1


def test_a_weight_keeps_the_decisions_near(images, attacked):
    wanted = two_sums(images)[1]
    unaware, aware = attacked(), attacked(weight=5.0)
    assert aware.success.all()
    measured = (two_sums(aware.images)[1] - wanted).square().sum(1) / 0.01
    assert aware.distance.tolist() == pytest.approx(measured.tolist(), rel=1e-4, abs=1e-6)
    # The left and the lower right can do it alone: the decisions can stay where they were.
    assert aware.distance.max() < 0.05 * unaware.distance.mean()


def test_an_image_that_cannot_be_turned_stays_clean(images, attacked):
    made = attacked(epsilon=0.001)
    assert not made.success.any() and torch.equal(made.images, images) and made.distance.isinf().all()


def test_the_same_seed_gives_the_same_images_whatever_the_other_batches(images, attacked):
    first, again, other = attacked(weight=1.0), attacked(weight=1.0), attacked(weight=1.0, seed=1)
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "weight is -1.0: from 0"),
        ({"spread": 0.0}, "do the clean images' decisions not differ"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_settings_out_of_range_are_refused(attacked, changes, message):
    with pytest.raises(DynamicError, match=message):
        attacked(**changes)


def test_targets_and_wanted_features_must_fit(images):
    zeros = torch.zeros(6, dtype=torch.int64)
    with pytest.raises(DynamicError, match="name another class for each image"):
        decision_pgd(two_sums, images, zeros, zeros, torch.zeros(6, 2), 0.0, 0.1)
    with pytest.raises(DynamicError, match="5 decision features for 6 images"):
        decision_pgd(two_sums, images, zeros, zeros + 1, torch.zeros(5, 2), 0.0, 0.1)


# --- on a network of decisions


@pytest.fixture
def network():
    from lib import models
    from lib.dynamic.lcs.network import LayerwiseChannelSelection

    torch.manual_seed(0)
    made = LayerwiseChannelSelection(
        models.build("resnet18", (1, 16, 16), 4, width=2), 3, "standardised", logit_scale=2.0
    )
    for layer in made.layers:
        unit = made.unit(layer)
        unit.masks.data.uniform_(0, 2)
    return made.train()


def test_what_is_observed_is_the_network_as_it_runs(network):
    images = torch.rand(5, 1, 16, 16)
    with observed(network) as both:
        logits, feature = both(images)
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    network.eval()
    assert torch.equal(logits, network(images)) and torch.equal(feature, network.feature(images))
    with pytest.raises(DynamicError, match="held, straight-through"), observed(network, "through"):
        pass


def gradient(network, images, kind):
    x = images.clone().requires_grad_(True)
    with observed(network, kind) as both:
        logits, _ = both(x)
        return torch.autograd.grad(F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.int64)), x)[0]


def test_held_choices_give_the_derivative_of_the_network_as_it_runs(network):
    network.double().eval()
    network.units.float()
    images = torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    direction = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    zero = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        ends = [F.cross_entropy(network(images + step * direction), zero).item() for step in (1e-7, -1e-7)]
    slope = (ends[0] - ends[1]) / 2e-7
    held = (gradient(network, images, "held") * direction).sum().item()
    assert held == pytest.approx(slope, rel=1e-3)
    assert not torch.allclose(gradient(network, images, "straight-through"), gradient(network, images, "held"))


@pytest.mark.parametrize("kind", decision_attack.GRADIENTS)
def test_the_attack_runs_through_a_network(network, kind):
    network.eval()
    images = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        network.network.fc.bias -= network(images).mean(0)  # untrained, it would name one class whatever it sees
        logits = network(images)
        labels = logits.argmax(1)
        targets = logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
        wanted = network.feature(images)
    with observed(network, kind) as both:
        made = decision_pgd(both, images, labels, targets, wanted, 0.01, 0.3, steps=15, batch=4)
    assert made.success.any()
    with torch.no_grad():
        assert torch.equal(network(made.images).argmax(1) != labels, made.success)
