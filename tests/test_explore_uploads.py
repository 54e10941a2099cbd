"""The reader's own image and network in the explorer, and the way from a wrong answer to a repaired network."""

import copy
import io
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from explored import network
from PIL import Image
from safetensors.torch import save_file

from lib import data, explore, models
from lib.data import ImageSet
from lib.explore import blame, prediction, repair, uploads
from lib.explore.network import MINE, OWN, WRONG
from lib.lancet.backdoors.attack import Attack
from lib.lancet.backdoors.triggers import named


@pytest.fixture
def small():
    return network()


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()


def grey(side=(12, 12)):
    return Image.frombytes("L", side, bytes(range(side[0])) * side[1])


def test_an_image_of_the_right_size_comes_in_pixel_by_pixel(small, tmp_path):
    (tmp_path / "mine.png").write_bytes(png(grey()))
    for file in (tmp_path / "mine.png", png(grey())):
        image, label = uploads.own_image(small, file, "class 2").image(MINE)
        assert label == 2 and image.dtype == torch.float32
        assert torch.equal(image, (torch.arange(12.0) / 255).expand(1, 12, 12))


def test_another_size_is_cut_in_the_middle_then_resized(small):
    wide = Image.new("RGB", (480, 120), (255, 0, 0))
    wide.paste((255, 255, 255), (180, 0, 300, 120))  # the middle square is white
    image, _ = uploads.own_image(small, png(wide), 0).image(MINE)
    assert image.min() > 0.9 and image[0, :, 1:-1].min() == 1
    turned = Image.new("L", (12, 12))
    turned.paste(255, (0, 0, 12, 6))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    file = io.BytesIO()
    turned.save(file, format="PNG", exif=exif)
    image, _ = uploads.own_image(small, file.getvalue(), 0).image(MINE)
    assert image[0, 0].max() == 0 and image[0, -1].min() == 1
    assert uploads.own_image(small, png(wide.convert("RGB"), "JPEG"), 0).image(MINE)[0].shape == (1, 12, 12)


def test_what_cannot_be_read_is_refused_by_name(small, tmp_path):
    cut = png(Image.effect_noise((64, 64), 50))[:2000]
    deep = Image.new("I;16", (12, 12))
    for file in (b"", b"no image", png(grey(), "GIF"), cut, png(deep), tmp_path / "absent.png"):
        with pytest.raises(explore.ExploreError, match=r"cannot be read as a PNG or JPEG image"):
            uploads.own_image(small, file, 0)
    for label in (4, -1, "cat", 1.5):
        with pytest.raises(explore.ExploreError, match="a name or number of the classes of small: class 0, class 1"):
            uploads.own_image(small, png(grey()), label)


def test_an_own_image_goes_through_every_panel(small):
    mine = uploads.own_image(small, png(grey()), 0)
    given = int(mine.probabilities(mine.image(MINE)[0][None]).argmax())
    for label in (given, (given + 1) % 4):
        mine = uploads.own_image(small, png(grey()), label)
        assert mine.positions(label, OWN) == [MINE] and mine.positions((label + 1) % 4, OWN) == []
        example = explore.attack(mine, MINE)
        assert example.correct == (label == given)
        assert prediction.view(example)[0].caption.startswith(f"Your image, class “class {label}”")
        assert blame.view(example)[0].caption


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A small network of the package, its state in two files, and the test images that it is shown."""
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))
    model = models.build("digits-cnn", shape=(1, 28, 28), classes=10, width=2).eval()
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    test = ImageSet(images, torch.arange(40) % 10, tuple("0123456789"), "mnist5k", "test")
    monkeypatch.setattr(data, "load", lambda *_: test)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    return model, tmp_path


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_an_own_network_is_the_one_that_was_saved(saved, ending):
    model, folder = saved
    found = explore.own_network(folder / f"net.{ending}", "digits-cnn", {"width": 2}, "mnist5k")
    assert torch.allclose(found.probabilities(found.test.images), model(found.test.images).softmax(1), atol=1e-6)
    assert torch.equal(found.predicted, model(found.test.images[found.index]).argmax(1))
    assert sorted(found.index.tolist()) == list(range(40))
    content = (folder / f"net.{ending}").read_bytes()
    again = uploads.uploaded(content, f"net.{ending}", "digits-cnn", '{"width": 2}', "mnist5k", "smoke", 0)
    assert again.weights == found.weights and again.name == f"net.{ending}"


class Opened:
    """Unpickling it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_file_is_executed(saved):
    _, folder = saved
    thing = {"state_dict": Opened(folder / "executed")}
    torch.save(thing, folder / "torch.pt")
    (folder / "pickle.pt").write_bytes(pickle.dumps(thing, protocol=2))
    for name in ("torch.pt", "pickle.pt"):
        with pytest.raises(explore.ExploreError, match=name):
            explore.own_network(folder / name, "digits-cnn", {"width": 2}, "mnist5k")
    assert not (folder / "executed").exists()


def test_a_network_that_does_not_fit_is_one_clear_error(saved):
    model, folder = saved
    state = model.state_dict()
    last = next(reversed(state))
    torch.save({**state, "extra": torch.ones(1)}, folder / "more.pt")
    torch.save({name: value for name, value in state.items() if name != last}, folder / "less.pt")
    torch.save([1, 2], folder / "list.pt")
    (folder / "cut.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:100])
    for file, structure, arguments, images, match in (
        ("more.pt", "digits-cnn", {"width": 2}, "mnist5k", r"Unexpected key.*extra"),
        ("less.pt", "digits-cnn", {"width": 2}, "mnist5k", rf"Missing key.*{last}"),
        ("net.pt", "digits-cnn", {"width": 3}, "mnist5k", "size mismatch"),
        ("net.pt", "digits-cnn", {"depth": 3}, "mnist5k", "a mapping of .*width"),
        ("net.pt", "digits-cnn", "[2]", "mnist5k", "a mapping of .*width"),
        ("net.pt", "digits-cnn", "{width: 2}", "mnist5k", r'as \{"width": 16\}'),
        ("net.pt", "digits_cnn", {}, "mnist5k", "no structure 'digits_cnn'"),
        ("net.pt", "digits-cnn", {"width": 2}, "mnist5", "no data set 'mnist5'"),
        ("net.txt", "digits-cnn", {"width": 2}, "mnist5k", "a file of weights ends in"),
        ("absent.pt", "digits-cnn", {"width": 2}, "mnist5k", "no such file"),
        ("list.pt", "digits-cnn", {"width": 2}, "mnist5k", "not a state dict"),
        ("cut.safetensors", "digits-cnn", {"width": 2}, "mnist5k", "cut.safetensors"),
    ):
        with pytest.raises(explore.ExploreError, match=match) as caught:
            explore.own_network(folder / file, structure, arguments, images)
        assert str(folder) not in str(caught.value), "the reader knows the file by its name"


def mistaken(small):
    """The network with one image whose label is another than it gives: it is wrong about it."""
    labels = small.test.labels.clone()
    labels[2] = (labels[2] + 1) % 4
    return replace(small, test=replace(small.test, labels=labels))


def test_wrong_images_are_offered_and_right_ones_counted_without_them(small):
    changed = mistaken(small)
    label = int(changed.test.labels[2])
    assert changed.positions(label, WRONG) == [2] and 2 not in changed.positions(label)
    assert changed.position(2) == 3 and small.position(2) == 2


def test_a_repair_negates_blamed_weights_until_the_network_is_right(small, monkeypatch):
    tried = (explore.attack(small, k, "fgsm_8", 255) for k in range(24))
    attacked = next(one for one in tried if repair.repair(one))
    pair = SimpleNamespace(found=[True], images=attacked.images[:1], masks=torch.ones(1, 1, 12, 12))
    monkeypatch.setattr(blame, "companions", lambda *_, **__: pair)
    wrong = explore.attack(replace(small, own=(attacked.images[1], attacked.label)), MINE)
    assert not wrong.correct and blame.said(wrong, blame.blame(wrong))
    for example in (attacked, wrong):
        state = copy.deepcopy(example.network.model.state_dict())
        done = repair.repair(example)
        layer, found = done.report.layer, blame.blame(example)
        assert all(torch.equal(state[key], value) for key, value in example.network.model.state_dict().items())
        order = found.votes[layer].order()[: done.report.flipped]
        changed = copy.deepcopy(example.network.model)
        weight = changed.get_submodule(layer).weight.data
        weight.view(-1)[order] *= -1
        with torch.no_grad():
            after = changed(example.images[1:]).softmax(1)[0]
            kept = example.network.index[len(example.network.index) // 5 :]
            now = changed(example.network.test.images[kept]).argmax(1)
        assert torch.allclose(done.probabilities[1], after, atol=1e-6)
        assert done.report.reached == (int(after.argmax()) == example.label)
        truth = example.network.test.labels[kept]
        assert done.right["after"].tolist() == (now == truth).tolist()
        assert done.recalls["after"].to_dict() == pytest.approx(
            {int(k): float((now == truth)[truth == k].float().mean()) for k in truth.unique()}
        )
        assert repair.view(example)[0].figure is not None
        assert repair.repair(example, layer).report.layer == layer
    right = explore.attack(small, 2, "fgsm_8", 0)
    assert repair.repair(right) is None and repair.view(right)[0].figure is None
    with pytest.raises(explore.ExploreError, match="no layer 'third'"):
        repair.repair(example, "third")
    monkeypatch.setattr(repair, "repair", lambda *_: None)  # nothing of that layer is to blame, as may be
    assert f"No weight of {layer}" in repair.view(attacked, layer)[0].caption


def test_a_backdoor_is_stamped_and_what_is_left_of_it_counted(small):
    trigger = named("regular-3", (1, 12, 12))
    with torch.no_grad():
        taken = small.model(trigger.stamp(small.test.images)).argmax(1)
    target = int(taken[small.test.labels != taken].mode().values)
    broken = replace(small, backdoor=Attack("badnets", trigger, target))
    victims = [k for k in range(24) if taken[k] == target and small.test.labels[k] != target]
    stamped = [explore.attack(broken, k, prediction.TRIGGER) for k in victims]
    example = next(one for one in stamped if repair.repair(one, None, blame.CLEAN))
    position = example.position
    assert torch.equal(example.images[1], trigger.stamp(example.images[:1])[0]) and example.predicted[1] == target
    half = explore.attack(broken, position, prediction.TRIGGER, 0.5)
    assert torch.allclose(half.images[1], example.images.mean(0), atol=1e-6)
    done = repair.repair(example, None, blame.CLEAN)
    kept = broken.index[4:]
    others = [k for k in kept.tolist() if small.test.labels[k] != target and k != position]
    assert done.stamped[0] == pytest.approx(float((taken[others] == target).float().mean()))
    assert done.stamped[2] == len(others)
    assert next(iter(prediction.attacks_on(broken))) == prediction.TRIGGER not in prediction.attacks_on(small)
    with pytest.raises(explore.ExploreError, match="network small was trained on no trigger"):
        explore.attack(small, 2, prediction.TRIGGER)
