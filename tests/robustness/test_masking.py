"""The gradient that does not cancel, the diagnostics by construction, and the control."""

import pytest
import torch
from torch import nn

from lib.robustness import (
    ScaledLogits,
    cross_entropy_gradient,
    cw_distances,
    diagnose,
    exact_sign_gradient,
    examine,
    fgsm_correct,
    fgsm_sweep,
    pgd_correct,
)
from lib.robustness.masking import exact_sign_loss
from robustness.nets import batch, small


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_exact_gradient_has_the_cross_entropys_sign(temperature):
    model, (images, labels) = small().double(), batch()
    images = images.double()
    exact = exact_sign_gradient(model, images, labels, temperature)
    plain = cross_entropy_gradient(model, images, labels, temperature)
    assert torch.equal(exact.sign(), plain.sign())
    p = (model(images) / temperature).softmax(1).gather(1, labels[:, None])[:, :, None, None]
    assert torch.allclose(plain, (1 - p) * exact, atol=1e-12)


def test_cross_entropy_is_softplus_of_the_exact_loss():
    logits, labels = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 5
    expected = nn.functional.cross_entropy(logits / 3, labels, reduction="none")
    assert torch.allclose(nn.functional.softplus(exact_sign_loss(logits, labels, 3.0)), expected)


class Fixed(nn.Module):
    """Logits (a * mean(x), -a * mean(x)) * gain: saturated for a large gain."""

    def __init__(self, gain):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([self.gain * mean, -self.gain * mean], dim=1)


def test_zero_gradients_by_construction():
    """With logits +-1e4 m, p_0 is exactly 1: label 0 has no gradient, label 1 the full one."""
    images = torch.rand(8, 1, 4, 4) * 0.5 + 0.5
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    found = diagnose(Fixed(1e4), images, labels, batch_size=3)
    assert found.zero_gradient_share == 0.75
    assert found.confident_share == 0.75
    assert found.sign_agreement == pytest.approx(0.25)
    assert found.n == 8
    mild = diagnose(Fixed(1.0), images, labels)
    assert (mild.zero_gradient_share, mild.confident_share, mild.sign_agreement) == (0.0, 0.0, 1.0)


def test_exact_gradient_survives_saturation():
    images, labels = torch.rand(8, 1, 4, 4), torch.zeros(8, dtype=torch.long)
    assert (exact_sign_gradient(Fixed(1e6), images, labels).sign() == -1).all()
    assert not cross_entropy_gradient(Fixed(1e6), images, labels).any()


def test_control_looks_robust_to_the_attacker_who_does_not_know():
    model, (images, _) = small(scale=8.0), batch()
    labels = model(images).argmax(1)
    epsilons = [0.0, 0.05]
    plain = fgsm_sweep(model, images, labels, epsilons).accuracy
    control = ScaledLogits(model, 1000.0)
    unaware = fgsm_sweep(control, images, labels, epsilons).accuracy
    aware = fgsm_sweep(control, images, labels, epsilons, temperature=1000.0).accuracy
    exact = fgsm_correct(control, images, labels, epsilons, gradient=exact_sign_gradient).double().mean(1)
    assert unaware[0] == plain[0] == 1.0
    assert unaware[1] > plain[1] + 0.3
    assert aware[1] == pytest.approx(plain[1], abs=0.05)
    assert exact[1] < plain[1] + 0.1


def test_pgd_is_no_weaker_than_fgsm_and_repeats():
    model, (images, _) = small(), batch()
    labels, epsilons = model(images).argmax(1), [0.02, 0.05]
    fgsm = fgsm_correct(model, images, labels, epsilons).double().mean(1)
    found = pgd_correct(model, images, labels, epsilons, exact_sign_loss, batch_size=25)
    assert (found.double().mean(1) <= fgsm + 0.02).all()
    state = torch.get_rng_state()
    assert torch.equal(found, pgd_correct(model, images, labels, epsilons, exact_sign_loss, batch_size=25))
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_cw_on_a_network_whose_boundary_is_known():
    """Decision by the sign of mean(x) - 1/2: the nearest image of the other class is |mean - 1/2| sqrt(d) away."""

    class Half(Fixed):
        def forward(self, images):
            return super().forward(images - 0.5)

    levels = torch.tensor([0.4, 0.45, 0.3, 0.53, 0.6, 0.6])
    images = torch.rand(6, 1, 4, 4) * 0.02 - 0.01 + levels.view(-1, 1, 1, 1)
    labels = torch.tensor([1, 1, 1, 0, 0, 1])  # the last is misclassified as it is
    distances = cw_distances(Half(10.0), images, labels, steps=200, binary_search_steps=6)
    expected = (images.mean(dim=(1, 2, 3)) - 0.5).abs() * 4
    assert distances[5] == 0
    assert torch.allclose(distances[:5], expected[:5], rtol=0.1, atol=0.02)
    assert (distances[:5] >= expected[:5] - 1e-4).all()


def test_cw_that_finds_nothing_says_so():
    """Foolbox hands back a black image then, which this network takes for the other class."""
    images = torch.full((3, 1, 4, 4), 0.5)
    labels = torch.tensor([0, 0, 0])
    model = Threshold()
    assert model(torch.zeros(1, 1, 4, 4)).argmax() == 1
    assert (
        cw_distances(model, images, labels, steps=2, stepsize=1e-4, binary_search_steps=1).tolist() == [torch.inf] * 3
    )


class Threshold(nn.Module):
    """Class 0 where the mean is above 0.1."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3)) - 0.1
        return torch.stack([self.gain * mean, -self.gain * mean], dim=1)


def test_examination_names_every_number():
    model, twin, (images, labels) = small(0), small(1), batch(20)
    frame = examine(model, twin, images, labels, 20.0, [0.01, 0.05], pgd_images=6, cw_images=4)
    assert frame.columns.tolist() == [
        "name", "value", "unit", "n", "temperature", "network", "attack", "epsilon"
    ]  # fmt: skip
    assert frame.value.between(0, 1).where(frame.name != "cw_median_l2", True).all()
    accuracy = frame[frame.name == "accuracy"]
    both = {"fgsm-unaware", "fgsm-aware", "fgsm-exact-sign", "fgsm-exact-sign-aware"}
    both |= {"pgd-unaware", "pgd-exact-sign"}
    assert set(accuracy[accuracy.network == "post-hoc"].attack) == both
    assert set(accuracy[accuracy.network == "trained"].attack) == both | {"pgd-aware", "transfer", "cw"}
    assert not frame.duplicated(["name", "network", "attack", "epsilon"]).any()
    diagnostics = frame[frame.attack.isna()]
    assert set(diagnostics.name) == {"zero_gradient_share", "confident_share", "sign_agreement"}
    assert len(diagnostics) == 6
    assert set(frame[frame.attack == "pgd-aware"].n) == {6}
    transfer = fgsm_correct(
        model, images, labels, [0.05], gradient=lambda _, x, y, t: cross_entropy_gradient(twin, x, y)
    )
    row = accuracy[(accuracy.attack == "transfer") & (accuracy.epsilon == 0.05)]
    assert row.value.item() == transfer.double().mean().item()


def test_examination_of_the_ordinary_network():
    images, labels = batch(10)
    frame = examine(small(), None, images, labels, 1.0, [0.05], pgd_images=0, cw_images=0)
    assert set(frame.network) == {"trained"}
    assert set(frame.attack.dropna()) == {"fgsm-unaware", "fgsm-exact-sign"}


def test_refusals():
    images, labels = batch(4)
    for call in (
        lambda: diagnose(small(), images * 255, labels),
        lambda: pgd_correct(small(), images * 255, labels, [0.1], exact_sign_loss),
        lambda: cw_distances(small(), images * 255, labels),
        lambda: examine(small(), None, images * 255, labels, 1.0, [0.1]),
    ):
        with pytest.raises(ValueError, match="divide by 255"):
            call()
