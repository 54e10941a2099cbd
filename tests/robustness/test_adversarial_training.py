"""PGD: stays in the ball, leaves statistics and gradients alone, repeats itself; and the x T start."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib import training
from lib.config import Recipe
from lib.data import ImageSet
from lib.robustness import Pgd, ScaledLogits, adversarial_training, fgsm_sweep, scale_last_layer
from robustness.nets import batch, small


def run_of(model, temperature=1.0):
    return SimpleNamespace(
        model=model,
        generator=torch.Generator().manual_seed(3),
        autocast=contextlib.nullcontext,
        temperature=temperature,
    )


@pytest.mark.parametrize(("given", "steps", "alpha"), [({}, 7, 0.025), ({"steps": 1, "alpha": 0.125}, 1, 0.125)])
def test_batch_is_the_algorithm_by_hand(given, steps, alpha):
    """PGD with the source's settings; one step of 1.25 eps is FGSM from a random start."""
    (images, labels), twin = batch(), small().train()
    hook = Pgd(0.1, **given)
    assert (hook.steps, hook.alpha) == (steps, pytest.approx(alpha))
    made = hook.images(run_of(small().train(), 2.0), images, labels)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(3)) * 0.2 - 0.1
    at = (images + noise).clamp(0, 1)
    for _ in range(steps):
        at = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(twin(at) / 2.0, labels), at)
        at = (images + (at - images + alpha * gradient.sign()).clamp(-0.1, 0.1)).clamp(0, 1)
    assert torch.allclose(made, at, atol=1e-6)
    assert (made - images).abs().max() <= 0.1 + 1e-6
    assert not made.requires_grad


def test_random_starts_on_a_device_come_from_a_generator_there(monkeypatch):
    """Stood for by the CPU: seeded from the run, apart from its seed, and the run's own generator is not drawn from."""
    model, (images, labels), made = small().train(), batch(), []

    class There(torch.Generator):
        def __new__(cls, device):
            made.append(torch.device(device).type)
            return torch.Generator.__new__(cls)

    monkeypatch.setattr(adversarial_training, "Generator", There)
    run, hook = run_of(model), Pgd(epsilon=0.1)
    run.device = torch.device("cuda")
    hook.begin(run)
    before = run.generator.get_state()
    first, second = hook.images(run, images, labels), hook.images(run, images, labels)
    assert made == ["cuda"] and torch.equal(run.generator.get_state(), before) and not torch.equal(first, second)
    assert hook.own is not None and hook.own.initial_seed() != run.generator.initial_seed()
    again = Pgd(epsilon=0.1)
    again.begin(run)
    assert torch.equal(again.images(run, images, labels), first)  # the same seed, the same starts
    saved = again.state()
    assert torch.equal(again.images(run, images, labels), second)
    again.load_state(saved)
    assert torch.equal(again.images(run, images, labels), second)
    run.generator = torch.Generator().manual_seed(4)
    again.begin(run)
    assert not torch.equal(again.images(run, images, labels), first)


def test_a_checkpoint_of_another_kind_of_device_is_refused():
    hook, run = Pgd(), run_of(small())
    run.device = torch.device("cpu")
    hook.begin(run)
    assert hook.state() == {}
    hook.load_state({})
    with pytest.raises(ValueError, match="kind of device"):
        hook.load_state({"noise": torch.Generator().get_state()})


def test_leaves_statistics_gradients_and_mode_alone():
    model, (images, labels) = small().train(), batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Pgd().images(run_of(model), images, labels)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(m.training for m in model.modules())
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_training_repeats_and_withstands_more():
    recipe = Recipe(arch="digits-cnn", data="mnist5k", epochs=12, batch=16, learning_rate=0.01, precision="float32")
    random = torch.Generator().manual_seed(5)
    labels = torch.arange(128) % 5
    patterns, noise = torch.rand(5, 3, 8, 8, generator=random), torch.rand(128, 3, 8, 8, generator=random)
    pixels = (127.5 * (patterns[labels] + noise)).to(torch.uint8)  # a pattern a class, half hidden in noise
    images = ImageSet(pixels, labels, tuple("abcde"), "patterns", "train")
    states, accuracies = [], []
    for hooks in ([Pgd(0.05)], [Pgd(0.05)], []):
        model = small()
        training.fit(model, images, recipe, hooks=hooks, device="cpu")
        states.append(model.state_dict())
        accuracies.append(fgsm_sweep(model, pixels, labels, [0.0, 0.1]).accuracy.tolist())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert accuracies[0][0] > 0.95 and accuracies[2][0] > 0.95
    assert accuracies[0][1] > accuracies[2][1] + 0.2


@pytest.mark.parametrize(
    "arguments", [{"epsilon": 0.0}, {"epsilon": 8.0}, {"alpha": 0.0}, {"steps": 0}, {"steps": 1.5}]
)
def test_refuses_settings(arguments):
    with pytest.raises(ValueError, match=r"epsilon|alpha|steps"):
        Pgd(**arguments)


def test_scaled_last_layer_multiplies_the_logits():
    images, _ = batch()
    assert torch.allclose(scale_last_layer(small(), 20.0)(images), 20 * small()(images), rtol=1e-4, atol=1e-4)
    assert torch.equal(scale_last_layer(small(), 1)(images), small()(images))


def test_scaled_logits_keep_each_decision():
    images, _ = batch()
    assert torch.equal(ScaledLogits(small(), 50.0)(images), 50.0 * small()(images))
    assert not ScaledLogits(small(), 50.0).training


@pytest.mark.parametrize("call", [scale_last_layer, ScaledLogits])
def test_refuses_factors(call):
    with pytest.raises(ValueError, match="positive"):
        call(small(), 0.0)


def test_refuses_a_network_without_linear_layer():
    with pytest.raises(ValueError, match="no Linear"):
        scale_last_layer(nn.Conv2d(3, 4, 3), 2.0)
