"""The sweep against Foolbox, against a loop by hand, and on inputs it must refuse."""

import foolbox
import pytest
import torch
from torch import nn

from lib.robustness import cross_entropy_gradient, fgsm_correct, fgsm_sweep
from robustness.nets import batch, small

EPSILONS = [0.0, 1 / 255, 4 / 255, 0.1, 0.3]


def test_successes_equal_foolbox():
    model, (images, labels) = small(), batch()
    labels = model(images).argmax(dim=1)  # so that each success is the attack's
    target = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, _, success = foolbox.attacks.LinfFastGradientAttack()(target, images, labels, epsilons=EPSILONS)
    correct = fgsm_correct(model, images, labels, EPSILONS, batch_size=17)
    assert torch.equal(correct, ~success)
    assert 0 < correct[1:].sum() < correct[1:].numel(), "eps too small or too large to tell anything"


def test_sweep_is_the_formula():
    model, (images, labels) = small(), batch()
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(images) / 3.0, labels), images)
    frame = fgsm_sweep(model, images.detach(), labels, EPSILONS, temperature=3.0)
    expected = [
        (model((images + e * gradient.sign()).clamp(0, 1)).argmax(1) == labels).double().mean().item() for e in EPSILONS
    ]
    assert frame.columns.tolist() == ["epsilon", "accuracy", "n"]
    assert frame.epsilon.tolist() == EPSILONS
    assert frame.accuracy.tolist() == expected
    assert frame.n.tolist() == [60] * 5
    assert len(set(expected)) > 2


def test_temperature_changes_the_direction_only_with_three_classes_or_more():
    model, (images, labels) = small(scale=20.0), batch()
    cold = cross_entropy_gradient(model, images, labels, 1.0).sign()
    hot = cross_entropy_gradient(model, images, labels, 50.0).sign()
    assert (cold != hot).float().mean() > 0.02


def test_network_is_left_as_it_was():
    model, (images, labels) = small(), batch()
    model.train()
    model[1].eval()
    mean = model[4].running_mean.clone()
    grads = [torch.ones_like(p) for p in model.parameters()]
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        parameter.grad = grad.clone()
    in_training = fgsm_correct(model, images, labels, EPSILONS)
    assert model.training and model[0].training and not model[1].training
    assert torch.equal(model[4].running_mean, mean)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(in_training, fgsm_correct(small(), images, labels, EPSILONS))


def test_bytes_mean_the_same_as_floats_and_autocast_is_off():
    model, (images, labels) = small(), batch()
    pixels = (images * 255).to(torch.uint8)
    expected = fgsm_correct(model, pixels.float() / 255, labels, EPSILONS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fgsm_correct(model, pixels, labels.to(torch.int32), EPSILONS), expected)


def test_follows_the_type_of_the_network():
    model, (images, labels) = small().double(), batch()
    assert fgsm_correct(model, images, labels, EPSILONS).shape == (5, 60)


IMAGES, LABELS = batch(4)


@pytest.mark.parametrize(
    ("images", "labels", "epsilons", "more", "words"),
    [
        (IMAGES[:0], LABELS[:0], [0.1], {}, "with N from 1"),
        (IMAGES, LABELS, [], {}, "at least one"),
        (IMAGES, LABELS, [4.0], {}, r"in \[0, 1\]"),
        (IMAGES, LABELS, [-0.1], {}, r"in \[0, 1\]"),
        (IMAGES, LABELS, [float("nan")], {}, r"in \[0, 1\]"),
        (IMAGES * 255, LABELS, [0.1], {}, r"divide by 255|NaN"),
        (IMAGES * float("nan"), LABELS, [0.1], {}, r"divide by 255|NaN"),
        (IMAGES.int(), LABELS, [0.1], {}, "uint8"),
        (IMAGES, LABELS.float(), [0.1], {}, "whole numbers"),
        (IMAGES, LABELS[:3], [0.1], {}, "one each is wanted"),
        (IMAGES[0], LABELS[:1], [0.1], {}, "N, C, H, W"),
        (IMAGES, LABELS - 9, [0.1], {}, r"lie in -9\.\."),
        (IMAGES, LABELS + 5, [0.1], {}, "5 logits"),
        (IMAGES, LABELS, [0.1], {"temperature": 0}, "temperature"),
        (IMAGES, LABELS, [0.1], {"batch_size": 0}, "batch_size"),
    ],
)
def test_refusals(images, labels, epsilons, more, words):
    with pytest.raises(ValueError, match=words):
        fgsm_sweep(small(), images, labels, epsilons, **more)
