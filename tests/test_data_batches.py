"""lib.data.as_batch: what people hold becomes tensors, or one error names what is wrong with it."""

import numpy as np
import pytest
import torch
from torch import nn

from lib import dynamic, lancet, robustness, slicing
from lib.attacks import attack
from lib.data import as_batch, as_images, as_labels, with_gradients

IMAGES = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    "given",
    [
        IMAGES,
        IMAGES.numpy(),
        list(IMAGES),
        IMAGES.tolist(),
        [image.numpy() for image in IMAGES],
        IMAGES.numpy()[:, :, ::-1][:, :, ::-1],
        IMAGES.double(),
    ],
)
def test_images_of_every_kind_become_the_same_tensor(given):
    found = as_images(given)
    assert found.shape == IMAGES.shape and torch.allclose(found.float(), IMAGES)


def test_half_precision_becomes_single_and_bytes_stay_bytes():
    assert as_images(IMAGES.half()).dtype == as_images(IMAGES.bfloat16()).dtype == torch.float32
    assert as_images((IMAGES * 255).to(torch.uint8)).dtype == torch.uint8
    assert as_images(IMAGES) is IMAGES


@pytest.mark.parametrize(
    "given",
    [
        LABELS.tolist(),
        LABELS.int(),
        LABELS.to(torch.uint8),
        LABELS.numpy(),
        LABELS.numpy().astype(np.int32),
        tuple(LABELS),
    ],
)
def test_labels_of_every_kind_become_int64(given):
    found = as_labels(given, 4, 3)
    assert found.dtype == torch.int64 and found.tolist() == LABELS.tolist()


WRONG_IMAGES = [
    (IMAGES[0], r"images have shape \(1, 6, 6\): want \(N, C, H, W\)"),
    (IMAGES[:0], "with N from 1"),
    (torch.rand(4, 6, 6, 3), r"look like \(N, H, W, C\): give images\.permute\(0, 3, 1, 2\)"),
    (IMAGES * 255, r"lie in 0.*: want .*; divide by 255"),
    (torch.where(torch.arange(4).view(4, 1, 1, 1) == 2, torch.nan, IMAGES), r"images\[2\] holds NaN"),
    (torch.where(torch.arange(4).view(4, 1, 1, 1) == 1, torch.inf, IMAGES), r"images\[1\] holds NaN or infinity"),
    (IMAGES.long(), "images are torch.int64"),
    ("a folder", "images are a str"),
    (None, "images are a NoneType"),
]
WRONG_LABELS = [
    (torch.eye(4)[LABELS], "as one-hot: want"),
    (LABELS[:, None], r"have shape \(4, 1\): want \(N,\); give labels\[:, 0\]"),
    (LABELS + 9, "labels lie in 9..11"),
    (LABELS - 1, "labels lie in -1..1"),
    (LABELS[:3], "4 images have 3 labels"),
    (LABELS.float(), "labels are torch.float32: want whole numbers"),
    (["cat", "dog", "cat", "dog"], "labels are a list"),
]


@pytest.mark.parametrize(("images", "message"), WRONG_IMAGES)
def test_images_that_cannot_be_used_are_named(images, message):
    with pytest.raises(ValueError, match=message):
        as_batch(images, LABELS)


@pytest.mark.parametrize(("labels", "message"), WRONG_LABELS)
def test_labels_that_cannot_be_used_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        as_batch(IMAGES, labels, classes=5)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    )
    model.eval()[-1].bias.data.sub_(model(torch.rand(50, 1, 6, 6)).mean(0).detach())
    return model


def gates(model, images, labels):
    return dynamic.learn_gates(model, images, labels, epochs=1, batch=2, validation=0.5)


METHODS = {
    "profile": lambda model, x, y: slicing.profile(model, x, y, 5),
    "scores": lambda model, x, y: slicing.class_scores(model, x, y, 5, "effective-path"),
    "locate": lambda model, x, y: lancet.locate(model, x, x, y),
    "gates": gates,
    "attack": lambda model, x, y: attack("fgsm_2", model, x, y),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("what", ["images", "labels"])
def test_every_method_takes_this_way_in(method, what):
    model = network()
    for wrong, message in WRONG_IMAGES if what == "images" else WRONG_LABELS:
        if method in ("gates", "attack") and message.startswith("labels lie in 9"):
            continue
        given = (wrong, LABELS) if what == "images" else (IMAGES, wrong)
        named = message.replace("images", "inputs") if method == "locate" and what == "images" else message
        with pytest.raises(ValueError, match=named):
            METHODS[method](model, *given)


def test_arrays_give_what_tensors_give_in_any_mode():
    model = network()
    with torch.no_grad():
        labels = model(IMAGES).argmax(1)
    wrong = (labels + 1) % 5
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            x = IMAGES.clone().numpy()
            known = slicing.profile(model, x, labels.tolist(), 5)
            found = slicing.slice(model, x, known, criterion=wrong.numpy(), reference="dataset")
            wanted = slicing.slice(model, IMAGES, known, criterion=wrong, reference="dataset")
            assert all(torch.equal(found.synapses[k], wanted.synapses[k]) for k in wanted.synapses)
            votes = lancet.locate(model, IMAGES.clone(), x[::-1], wrong.tolist())
            assert set(votes) == {"0", "3", "8"}
            lancet.flip(model, votes, x, wrong.int()) if any(v.share for v in votes.values()) else None
            assert gates(model, IMAGES.clone(), [0, 1, 0, 1]).values.keys() == {"0", "3"}
            sweep = robustness.fgsm_sweep(model, x, labels.to(torch.uint8), [0.0, 0.1])
            assert sweep["accuracy"][0] == 1
            assert len(attack("fgsm_2", model, x, labels.numpy())) == 4


class Named(nn.Module):
    """Returns what a mapping or another container holds."""

    def __init__(self, container):
        super().__init__()
        self.inner, self.container = network(), container

    def forward(self, x):
        return self.container(self.inner(x))


def test_logits_are_taken_out_of_what_names_them_and_refused_elsewhere():
    plain, x = network(), IMAGES
    labels = plain(x).argmax(1)
    named = Named(lambda logits: {"logits": logits, "features": logits * 2}).eval()
    pair = Named(lambda logits: (logits, logits)).eval()
    wanted = robustness.fgsm_sweep(plain, x, labels, [0.1])["accuracy"][0]
    assert robustness.fgsm_sweep(named, x, labels, [0.1])["accuracy"][0] == wanted
    for call in (
        lambda: robustness.fgsm_sweep(pair, x, labels, [0.1]),
        lambda: attack("fgsm_2", pair, x, labels),
        lambda: slicing.effective_path(pair, x),
        lambda: lancet.locate(pair, x, x, labels),
    ):
        with pytest.raises(ValueError, match="returns a tuple"):
            call()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_other_precision_work_or_are_told(kind):
    model = network().to(kind)
    same = network().to(kind).float()
    labels = same(IMAGES).topk(2).indices[:, 1]
    ours, theirs = (slicing.effective_path(m, IMAGES).synapses for m in (model, same))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    votes = [lancet.locate(m, IMAGES, IMAGES.flip(0), labels) for m in (model, same)]
    assert all(torch.equal(votes[0][k].counts, votes[1][k].counts) for k in votes[1])
    values = [gates(m, IMAGES, [0, 1, 0, 1]).values for m in (model, same)]
    assert all(torch.equal(values[0][k], values[1][k]) for k in values[1])
    with pytest.raises(ValueError, match=f"parameters of {kind}: attacks run in float32"):
        attack("fgsm_2", model, IMAGES, labels)


def test_with_gradients_gives_the_modes_back():
    seen = with_gradients(lambda: (torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    with torch.inference_mode():
        assert seen() == (True, False)
        assert torch.is_inference_mode_enabled()
    assert seen() == (True, False)
