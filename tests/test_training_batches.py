"""lib.training.Batches: true crops and mirror images, fresh orders, and what becomes of a batch that is not full."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from training_tools import generator, images, net, recipe

from lib.data import ImageSet
from lib.training import Batches, TrainingError, fit

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_augmentation_yields_true_crops_and_flips(channels, flip, kind):
    """Every image that comes out is found among all crops and mirror images of its source, by brute force."""
    shape, pad = (channels, 8, 16), 2
    source = images(6, shape, classes=6)
    source = replace(source, labels=torch.arange(6))  # the label tells which image it was
    if kind == "float":
        source = replace(source, images=source.images.float() / 255)
    asked = recipe(batch=6, augment=("crop", "flip") if flip else ("crop",))
    batches = Batches(source, asked, CPU, generator())
    assert batches.packed == (channels in (3, 4) and kind == "uint8")
    padded = F.pad(source.float(), (pad,) * 4)
    seen = set()
    for _ in range(60):
        ((batch, labels),) = batches.epoch()
        assert batch.dtype == torch.float32 and batch.shape == (6, *shape) and batch.is_contiguous()
        for image, label in zip(batch, labels.tolist(), strict=True):
            fits = [
                (top, left, mirrored)
                for top, left, mirrored in itertools.product(range(2 * pad + 1), range(2 * pad + 1), (False, True))
                if torch.equal(_cut(padded[label], top, left, mirrored, (8, 16)), image)
            ]
            assert len(fits) == 1
            seen.add(fits[0])
    assert {fit[0] for fit in seen} == {fit[1] for fit in seen} == set(range(2 * pad + 1))
    assert {fit[2] for fit in seen} == ({False, True} if flip else {False})


def _cut(image, top, left, mirrored, size):
    cut = image[:, top : top + size[0], left : left + size[1]]
    return cut.flip(2) if mirrored else cut


@pytest.mark.parametrize("augment", [(), ("crop",), ("flip",), ("crop", "flip")])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_batches_are_the_images_cut_out_one_by_one(augment, kind):
    """Order, offsets, flips drawn from one generator in this order; each image padded, cut and mirrored by itself."""
    source, pad, drawn = images(23, (3, 16, 24)), 3, generator(5)
    if kind == "float":
        source = replace(source, images=source.images.float() / 255)
    batches = Batches(source, recipe(batch=5, augment=augment), CPU, generator(5))
    padded = F.pad(source.float(), (pad,) * 4)
    for _ in range(3):
        order = torch.randperm(23, generator=drawn)
        for number, (batch, labels) in enumerate(batches.epoch()):
            index, top, left, mirrored = order[5 * number : 5 * number + 5], [pad] * 5, [pad] * 5, [False] * 5
            if "crop" in augment:
                top, left = (torch.randint(0, 2 * pad + 1, (5,), generator=drawn).tolist() for _ in range(2))
            if "flip" in augment:
                mirrored = (torch.rand(5, generator=drawn) < 0.5).tolist()
            places = zip(index.tolist(), top, left, mirrored, strict=True)
            alone = [_cut(padded[place], *cut, (16, 24)) for place, *cut in places]
            assert torch.equal(batch, torch.stack(alone)) and torch.equal(labels, source.labels[index])
        assert number == 3


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_only_a_few_numbers_an_image_travel_to_the_device(monkeypatch, kind):
    """On a device that is not there: tensors of a batch are made on it, from three whole numbers an image."""
    source = images(40, (3, 8, 8))
    if kind == "float":
        source = replace(source, images=source.images.float() / 255)
    with FakeTensorMode(allow_non_fake_inputs=True):
        batches = Batches(source, recipe(batch=20, augment=("crop", "flip")), torch.device("cuda"), generator())
        sent, to = [], torch.Tensor.to

        def watched(tensor, *where, **how):
            moved = to(tensor, *where, **how)
            if moved.device != tensor.device:
                sent.append(tensor.numel() * tensor.element_size())
            return moved

        monkeypatch.setattr(torch.Tensor, "to", watched)
        for batch, labels in batches.epoch():
            assert batch.device.type == labels.device.type == "cuda"
            assert batch.shape == (20, 3, 8, 8) and batch.dtype == torch.float32 and labels.shape == (20,)
    assert sent == [3 * 8 * 20] * 2


def test_crops_and_flips_are_even():
    """2,000 draws: each of nine offsets a ninth of the time, mirrored half of the time, and independent."""
    source = ImageSet(
        torch.zeros(2000, 1, 8, 8, dtype=torch.uint8), torch.zeros(2000, dtype=torch.long), ("a",), "r", "t"
    )
    source.images[:, 0, 3, 2] = 255  # one bright pixel tells all
    asked = recipe(batch=2000, augment=("crop", "flip"))
    ((batch, _),) = Batches(source, asked, CPU, generator()).epoch()
    rows, columns = torch.where(batch[:, 0] > 0)[1:]
    assert torch.bincount(rows)[[2, 3, 4]].tolist() == pytest.approx([667] * 3, abs=90)
    plain = torch.isin(columns, torch.tensor([1, 2, 3]))
    assert plain.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(plain, ~torch.isin(columns, torch.tensor([4, 5, 6])))
    assert (rows == 3)[plain].float().mean().item() == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("augment", [(), ("crop",), ("flip",), ("crop", "flip")])
def test_packed_pixels_equal_unpacked_ones(augment, channels_last):
    source = images(32, (3, 16, 16))
    asked = recipe(batch=8, augment=augment, channels_last=channels_last)
    packed = Batches(source, asked, CPU, generator(7))
    plain = Batches(replace(source, images=source.images.float() / 255), asked, CPU, generator(7))
    assert packed.packed and not plain.packed
    for (one, labels), (other, others) in zip(packed.epoch(), plain.epoch(), strict=True):
        assert torch.equal(one, other) and torch.equal(labels, others)
        last = torch.channels_last if channels_last else torch.contiguous_format
        assert one.is_contiguous(memory_format=last)


def test_without_augmentation_images_are_as_they_were():
    source = images(20)
    for batch, labels in Batches(source, recipe(), CPU, generator()).epoch():
        for image, label in zip(batch, labels, strict=True):
            matches = (source.float() == image).flatten(1).all(1)
            assert source.labels[matches].tolist() == [label]


@pytest.mark.parametrize(
    ("count", "batch", "sizes"), [(40, 10, [10] * 4), (47, 10, [10] * 4), (7, 10, [7]), (10, 10, [10])]
)
def test_a_last_batch_that_is_not_full_is_left_out_unless_it_is_the_only_one(count, batch, sizes):
    source = replace(images(count), labels=torch.arange(count), classes=tuple(map(str, range(count))))
    batches = Batches(source, recipe(batch=batch), CPU, generator())
    epochs = [list(batches.epoch()) for _ in range(2)]
    orders = [[label for _, labels in epoch for label in labels.tolist()] for epoch in epochs]
    assert [[len(images) for images, _ in epoch] for epoch in epochs] == [sizes] * 2
    assert len(batches) == len(sizes)
    for order in orders:
        assert len(set(order)) == len(order) == sum(sizes)
    assert orders[0] != orders[1]


def test_floating_images_come_as_float32():
    source = replace(images(10), images=images(10).images.double() / 255)
    ((batch, _),) = Batches(source, recipe(), CPU, generator()).epoch()
    assert batch.dtype == torch.float32


def test_images_that_stay_on_disk_are_refused(monkeypatch):
    monkeypatch.setattr(ImageSet, "in_memory", property(lambda self: False))
    with pytest.raises(TrainingError, match=r"ImageSet\(random train: .*stays on disk.*train_limit"):
        fit(net(), images(), recipe())
