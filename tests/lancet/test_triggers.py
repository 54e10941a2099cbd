"""lib.lancet.backdoors.triggers and badnets: what is stamped where, and which images are poisoned."""

import pytest
import torch

from lib.data import ImageSet
from lib.lancet.backdoors import NAMES, Trigger, badnets, named
from lib.lancet.backdoors.triggers import SHARES, rectangles
from lib.lancet.errors import LancetError

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 64, 64), (3, 55, 47), (3, 224, 224)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_named_trigger_covers_its_share(name, shape):
    trigger = named(name, shape)
    pixels = shape[1] * shape[2]
    squares = 9 if name.startswith("scattered") else max(1, int(name[-1]) - 1)
    assert trigger.mask.shape == (1, *shape[1:]) and trigger.pattern.shape == shape
    assert abs(trigger.share - SHARES[name]) * pixels <= squares * max(
        1.0, 0.6 * (SHARES[name] / squares * pixels) ** 0.5
    )
    assert set(trigger.mask.unique().tolist()) == {0.0, 0.5 if name.startswith("scattered") else 1.0}
    shown = trigger.pattern[:, trigger.mask[0] > 0]
    assert set(shown.unique().tolist()) == {0.0, 1.0}  # seen on light images and on dark ones


def test_the_stated_sizes_come_out_on_32_by_32():
    shares = {name: round(named(name, (3, 32, 32)).share, 3) for name in NAMES}
    assert shares["regular-1"] == 0.02 and shares["regular-2"] == 0.079 and shares["regular-5"] == 0.316
    assert shares["scattered-1"] == 0.033 and shares["scattered-3"] == 0.16


def test_regular_squares_lie_in_the_corners_one_after_the_other():
    corners = [(31, 31), (31, 0), (0, 31), (0, 0)]
    for count in (1, 2, 3, 4):
        mask = named(f"regular-{count + 1}", (3, 32, 32)).mask[0]
        assert [bool(mask[place]) for place in corners] == [k < count for k in range(4)]
        assert int(mask.sum()) == 81 * count and not mask[9:23].any() and not mask[:, 9:23].any()


def test_scattered_squares_are_spread_evenly():
    mask = named("scattered-2", (3, 36, 36)).mask[0] > 0
    for row in range(3):
        for column in range(3):
            part = mask[12 * row : 12 * row + 12, 12 * column : 12 * column + 12]
            assert 9 <= int(part.sum()) <= 16 and not part[0].any() and not part[:, 0].any()


@pytest.mark.parametrize(
    ("pixels", "count"), [(20.48, 1), (80.9, 1), (34.8, 9), (165, 9), (126.2, 9), (3.0, 1), (1, 1)]
)
def test_rectangles_cover_the_wanted_number_as_nearly_as_two_sizes_can(pixels, count):
    found = rectangles(pixels, count)
    areas = [rows * columns for rows, columns in found]
    assert len(found) == count and all(columns - rows in (0, 1) for rows, columns in found)
    sizes = sorted(set(areas))
    step = (sizes[1] - sizes[0]) if len(sizes) == 2 else 2 * max(areas)
    assert abs(sum(areas) - pixels) <= max(0.5 * step, 1.0)


def test_stamping_is_the_blend_of_its_formula_and_leaves_the_images_alone():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 14, 15)
    before = images.clone()
    trigger = Trigger(torch.rand(1, 14, 15), torch.rand(3, 14, 15))
    stamped = trigger.stamp(images)
    for n in range(4):
        for c in range(3):
            expected = images[n, c] * (1 - trigger.mask[0]) + trigger.pattern[c] * trigger.mask[0]
            assert torch.equal(stamped[n, c], expected)
    assert torch.equal(images, before) and 0 <= stamped.min() <= stamped.max() <= 1
    with pytest.raises(LancetError, match=r"is for images of \(3, 14, 15\), these are \(1, 28, 28\)"):
        trigger.stamp(torch.rand(2, 1, 28, 28))


def test_a_trigger_comes_back_from_its_file_bit_for_bit(tmp_path):
    trigger = Trigger(torch.rand(1, 12, 12), torch.rand(3, 12, 12), "mine")
    path = trigger.save(tmp_path / "kept" / "t.safetensors")
    again = Trigger.load(path)
    assert torch.equal(again.mask, trigger.mask) and torch.equal(again.pattern, trigger.pattern) and again.name == "t"
    path.write_bytes(b"nothing")
    with pytest.raises(LancetError, match="holds no trigger"):
        Trigger.load(path)
    with pytest.raises(LancetError, match=r"absent\.safetensors holds no trigger"):
        Trigger.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: named("regular-6", (3, 32, 32)), "no trigger 'regular-6': one of regular-1, "),
        (lambda: named("regular-1", (3, 8, 32)), "on images of 8x32: at least 12x12"),
        (lambda: Trigger(torch.zeros(1, 4, 4), torch.zeros(3, 4, 5)), "do not fit together"),
        (lambda: Trigger(torch.full((1, 4, 4), 1.5), torch.zeros(3, 4, 4)), "mask holds values outside"),
        (lambda: Trigger(torch.zeros(1, 4, 4), torch.full((3, 4, 4), torch.nan)), "pattern holds values outside"),
    ],
)
def test_triggers_that_cannot_be(make, message):
    with pytest.raises(LancetError, match=message):
        make()


def some_images(count: int = 200, classes: int = 5, floating: bool = False) -> ImageSet:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 1, 12, 12), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=generator)
    names = tuple(map(str, range(classes)))
    return ImageSet(pixels.float() / 255 if floating else pixels, labels, names, "some", "train")


@pytest.mark.parametrize("floating", [False, True])
def test_poison_stamps_a_share_of_the_other_classes_and_labels_it_as_the_target(floating):
    images = some_images(floating=floating)
    before = images.images.clone()
    poisoned = badnets.poison(images, trigger="regular-2", target=3, share=0.1, seed=1)
    changed = (poisoned.images != images.images).flatten(1).any(1)
    assert int(changed.sum()) == 20 and torch.equal(images.images, before)
    assert (images.labels[changed] != 3).all() and (poisoned.labels[changed] == 3).all()
    assert torch.equal(poisoned.labels[~changed], images.labels[~changed])
    expected = named("regular-2", (1, 12, 12)).stamp(images.float(index=changed))
    assert (poisoned.float(index=changed) - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert poisoned.images.dtype == images.images.dtype


def test_one_seed_one_poisoned_set():
    images = some_images()
    again = [badnets.poison(images, trigger="scattered-1", seed=seed).fingerprint for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2] != images.fingerprint


def test_each_class_gives_in_proportion_to_its_size():
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate((50, 400, 100, 10))])
    chosen = badnets.victims(labels, target=0, share=0.1, seed=0)
    given = torch.bincount(labels[chosen], minlength=4)
    assert len(chosen) == 56 and given[0] == 0
    for label, exact in ((1, 56 * 400 / 510), (2, 56 * 100 / 510), (3, 56 * 10 / 510)):
        assert abs(int(given[label]) - exact) < 1
    assert len(chosen.unique()) == 56 and torch.equal(chosen, chosen.sort().values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trigger": "regular-1", "target": 5}, "target 5 is not a class of .*: from 0 to 4"),
        ({"trigger": "regular-1", "share": 0.0}, "poison at least one image"),
        ({"trigger": "regular-1", "share": 1.0}, "a share of 1 of 200 images is 200"),
        ({"trigger": "square"}, "no trigger 'square'"),
    ],
)
def test_what_cannot_be_poisoned(arguments, message):
    with pytest.raises(LancetError, match=message):
        badnets.poison(some_images(), **arguments)
