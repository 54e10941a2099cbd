"""One's own network: files read without executing them, a located error repaired, everything else said."""

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from lancet.defect_nets import Cornered, sides, stamped
from lib import models
from lib.lancet import repair_saved
from lib.lancet.errors import LancetError
from lib.lancet.files import load_classifier, load_state, read_folder


@pytest.fixture
def backdoor():
    """A network, stamped images of class 1 that it answers 0, the same without the stamp, and clean images."""
    images, labels = sides()
    chosen = labels == 1
    return Cornered().eval(), (stamped(images[chosen]), labels[chosen]), images[chosen], sides(seed=1)


@pytest.mark.parametrize("rule", [None, "smallest-fraction", "most-pairs"])
def test_a_backdoor_is_flipped_away(backdoor, rule):
    model, wrong, without, clean = backdoor
    before = {name: value.clone() for name, value in model.state_dict().items()}
    repaired, report = repair_saved.repair_own(
        model, wrong, clean=clean, without=without, target=0, method="flip", rule=rule, threshold=0.0
    )
    assert report.before["success"] == 1 and report.before["accuracy"] == 1
    assert report.after["success"] == 0 and report.after["wrong_right"] == 1 and report.after["accuracy"] == 1
    assert report.after["target_recall"] == 1 and report.after["natural_target_rate"] == 0
    assert report.reached and report.given == report.wrong == 20 and report.pairs == 10
    assert report.reported_on == (10, 20)
    changed = {name for name, value in repaired.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{report.layer}.weight"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "| attack success rate | 1.000 | 0.000 |" in report.text()


def test_fine_tuning_changes_a_layer_s_voted_weights_only(backdoor):
    model, wrong, without, clean = backdoor
    options = {"method": "fine-tune", "layer": "fc2", "share": 0.2, "epochs": 60, "learning_rate": 0.05}
    repaired, report = repair_saved.repair_own(model, wrong, clean=clean, without=without, **options)
    moved = repaired.fc2.weight != model.fc2.weight
    assert moved.any() and int(moved.sum()) <= report.weights <= 2
    assert report.rule == "given" and report.layer == "fc2"
    assert report.after["wrong_right"] >= report.before["wrong_right"] == 0
    assert "target_recall" not in report.after and report.text().count("\n") > 5


def test_the_recall_of_every_class_is_told_and_decides_what_a_success_is(backdoor):
    model, wrong, without, clean = backdoor
    _, report = repair_saved.repair_own(model, wrong, clean=clean, without=without, target=0, threshold=0.0)
    assert report.method == "flip" and report.rule == "trial"  # the default where a target is given
    assert report.before["recall_of_class_0"] == report.after["recall_of_class_1"] == 1 and report.succeeded
    assert report.images_of == {0: 10, 1: 10} and report.reported_on[1] == 20
    assert "| recall of class 1 | 1.000 | 1.000 |" in report.text()
    worse = replace(report, after={**report.after, "recall_of_class_0": 0.7})
    assert worse.worse == [0] and not worse.succeeded
    assert "this is no success:** recall fell of class 0 (1.000 to 0.700)" in worse.text()
    assert replace(report, after={**report.after, "recall_of_class_0": 0.9}).worse == []  # one image of ten
    assert not replace(report, reached=False).succeeded
    assert not replace(report, images_of={}).succeeded


def test_a_network_that_is_right_by_chance_only_is_warned_of(backdoor):
    model, wrong, without, (images, labels) = backdoor
    with pytest.warns(UserWarning, match="about as chance would be: are they normalised twice"):
        repair_saved.repair_own(model, wrong, clean=(images, 1 - labels), without=without, target=0)


def test_without_clean_images_accuracy_is_not_measured(backdoor):
    model, wrong, without, _ = backdoor
    _, report = repair_saved.repair_own(model, wrong, without=without, target=0, method="flip")
    assert report.rule == "smallest-fraction" and "| accuracy | not measured | not measured |" in report.text()


def test_what_cannot_be_repaired_is_said_and_left_alone(backdoor, monkeypatch):
    model, (images, labels), without, clean = backdoor
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for arguments, message in [
        ({"wrong": clean}, "the network is right on 40 of the 40 inputs given"),
        ({"wrong": (images[:0], labels[:0])}, "with N from 1"),
        ({"wrong": (images, labels), "method": "prune"}, "method is 'prune': one of fine-tune, flip"),
        ({"wrong": (images, labels), "without": images}, "wrong on all 10 companions too"),
        ({"wrong": (images, labels), "without": images[:3]}, "want one for each"),
        ({"wrong": (images, labels), "without": without, "layer": "fc9"}, "fc9"),
        ({"wrong": (images, labels), "without": without, "method": "flip", "rule": "trial"}, "give clean images"),
        ({"wrong": (images, labels), "without": without, "rule": "trial"}, 'is for method "flip"'),
        ({"wrong": (images[0], labels)}, "want .N, C, H, W."),
    ]:
        with pytest.raises(LancetError, match=message):
            repair_saved.repair_own(model, **arguments)
    stubborn = Cornered()
    with torch.no_grad():
        stubborn.fc2.weight.zero_()
        stubborn.fc2.bias.copy_(torch.tensor([1.0, 0.0]))  # whatever it sees, it answers 0
    with pytest.raises(LancetError, match="no companion was found for any of 10 wrong inputs in 2 steps"):
        repair_saved.repair_own(stubborn, (images, labels), steps=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_weights_are_read_without_executing_anything(tmp_path):
    model = Cornered()
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    torch.save(model.state_dict(), tmp_path / "net.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "wrapped.pt")
    for name in ("net.safetensors", "net.pt", "wrapped.pt"):
        state = load_state(tmp_path / name)
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    loaded = load_classifier(tmp_path / "net.pt", nn.Sequential().__class__ and Cornered())
    assert not loaded.training
    trace = tmp_path / "executed"
    torch.save({"weights": Bomb(trace)}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb(trace)))
    torch.save(model, tmp_path / "whole.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "net.safetensors").read_bytes()[:50])
    for name, message in [
        ("bomb.pt", "would run code from the file, so it is not read"),
        ("plain.pkl", "is not read|cannot be read"),
        ("whole.pt", "would run code from the file"),
        ("other.pt", "not a state dict"),
        ("torn.safetensors", "cannot be read as weights"),
        ("missing.pt", "no such file"),
    ]:
        with pytest.raises(LancetError, match=message):
            load_state(tmp_path / name)
    assert not trace.exists()


def test_weights_that_do_not_fit_are_named(tmp_path):
    about = {"shape": (1, 8, 8), "classes": 3}
    save_file(models.build("digits-cnn", width=2, **about).state_dict(), tmp_path / "net.safetensors")
    model = load_classifier(tmp_path / "net.safetensors", "digits-cnn", width=2, **about)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    scaled = load_classifier(tmp_path / "net.safetensors", "digits-cnn", width=2, mean=[0.5], std=[0.5], **about)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(scaled(images), model((images - 0.5) / 0.5))
    for structure, arguments, message in [
        ("digits-cnn", {"width": 4}, "size mismatch"),
        ("fc5", {}, "(?s)does not fit fc5: .*Missing key"),
        ("nothing", {}, "structure 'nothing' cannot be built"),
        ("torchvision:nothing", {}, "structure 'torchvision:nothing' cannot be built"),
    ]:
        with pytest.raises(LancetError, match=message):
            load_classifier(tmp_path / "net.safetensors", structure, **about, **arguments)


def write_pictures(folder, images, labels, names=None):
    for k, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = folder / (names[label] if names else str(label))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(place / f"{k}.png")


class Batched(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2))

    def forward(self, x):
        return self.net(x)


def test_structures_and_state_dicts_of_all_kinds(tmp_path, monkeypatch):
    state = {k: v for k, v in Batched().state_dict().items() if "num_batches_tracked" not in k}
    torch.save(state, tmp_path / "old.pt")
    assert load_classifier(tmp_path / "old.pt", Batched(), shape=(3, 8, 8), classes=2)(
        torch.rand(1, 3, 8, 8)
    ).shape == (1, 2)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(width=2):\n    return nn.Linear(width, 2)\nword = len\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "mine.pt")
    assert isinstance(load_classifier(tmp_path / "mine.pt", "mine:net", width=3), nn.Linear)
    import torchvision

    torch.save(torchvision.models.squeezenet1_1(num_classes=2).state_dict(), tmp_path / "squeeze.pt")
    load_classifier(tmp_path / "squeeze.pt", "squeezenet1_1", classes=2)
    inside = nn.Sequential(models.Normalise.of([0.5] * 3, [0.2] * 3), Batched())
    torch.save(inside.state_dict(), tmp_path / "inside.pt")
    for structure, arguments, message in [
        ("mine:nothing", {}, "cannot be built"),
        ("mine:word", {"obj": "four"}, "gives a int|cannot be built"),
        ("nowhere:net", {}, "structure 'nowhere:net' cannot be built: No module"),
        (Batched(), {"mean": [0.5] * 3}, "mean and std go together"),
        (Batched(), {"mean": [0.5], "std": [0.2]}, "mean has 1 and std 1 numbers: one a channel"),
        (Batched(), {"mean": [0.5] * 3, "std": [0.2, 0, 0.2]}, "std is"),
        (
            inside,
            {"mean": [0.5] * 3, "std": [0.2] * 3},
            "normalises its input itself, at .'0'.: leave mean and std out",
        ),
    ]:
        with pytest.raises(LancetError, match=message):
            load_classifier(tmp_path / "mine.pt", structure, classes=2, **arguments)


def test_images_of_more_than_eight_bits_are_refused(tmp_path):
    (tmp_path / "0").mkdir()
    for values in (np.zeros((8, 8), np.uint16), np.zeros((8, 8), np.float32)):
        Image.fromarray(values).save(tmp_path / "0" / "deep.tiff")
        with pytest.raises(LancetError, match=r"deep\.tiff cannot be read as an image: .* more than eight bits"):
            read_folder(tmp_path, 2, (1, 8, 8))


def test_folders_are_read_by_name_or_number(tmp_path):
    images, labels = sides(6)
    write_pictures(tmp_path / "a", images, labels)
    write_pictures(tmp_path / "b", images, labels, ["left", "right"])
    numbered, named = (
        read_folder(tmp_path / "a", 2, (1, 8, 8)),
        read_folder(tmp_path / "b", ["left", "right"], (1, 8, 8)),
    )
    assert torch.equal(numbered.images, named.images) and named.labels.tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(named.images[0], (images[0] * 255).round() / 255)
    assert named.names[0] == "left/0.png"
    assert read_folder(tmp_path / "a", 2, (3, 16, 16)).images.shape == (6, 3, 16, 16)
    (tmp_path / "a" / "0" / "torn.png").write_bytes(b"\x89PNG")
    (tmp_path / "c").mkdir()
    for folder, classes, message in [
        ("a", 2, "torn.png cannot be read as an image"),
        ("b", 2, "left: its name is none of the 2 classes"),
        ("c", 2, "holds no image"),
        ("d", 2, "no such folder"),
    ]:
        with pytest.raises(LancetError, match=message):
            read_folder(tmp_path / folder, classes, (1, 8, 8))


def test_the_command_repairs_or_says_why_not(tmp_path, capsys, monkeypatch):
    images, labels = sides()
    monkeypatch.setitem(models.ARCHITECTURES, "cornered", lambda shape, classes, normalise: Cornered())
    save_file(Cornered().state_dict(), tmp_path / "net.safetensors")
    chosen = labels == 1
    write_pictures(tmp_path / "wrong", stamped(images[chosen]), labels[chosen])
    write_pictures(tmp_path / "without", images[chosen], labels[chosen])
    write_pictures(tmp_path / "clean", images, labels)
    words = ["--weights", "net.safetensors", "--structure", "cornered", "--classes", "2", "--out", "new.safetensors"]
    words = [str(tmp_path / word) if "." in word else word for word in words] + ["--shape", "1", "8", "8"]
    folders = ["--wrong", str(tmp_path / "wrong"), "--companions", str(tmp_path / "without")]
    more = ["--clean", str(tmp_path / "clean"), "--target", "0", "--method", "flip"]
    assert repair_saved.main([*words, *folders, *more]) == 0
    assert "| attack success rate | 1.000 | 0.000 |" in capsys.readouterr().out
    repaired = load_classifier(tmp_path / "new.safetensors", Cornered())
    assert (repaired(stamped(images)).argmax(1) == labels).all()
    written = json.loads((tmp_path / "new.json").read_text())
    assert written["after"]["success"] == 0 and written["reported_on"] == [10, 20]
    assert repair_saved.main([*words, *folders, *more, "--out", str(tmp_path / "new.pt")]) == 0
    assert torch.load(tmp_path / "new.pt", weights_only=True).keys() == repaired.state_dict().keys()
    capsys.readouterr()
    for changed, message in [
        (["--out", str(tmp_path / "net.safetensors")], "is what is read: give another file"),
        (["--out", str(tmp_path)], "whose name ends with"),
        (["--target", "2"], r"--target 2: a class in 0\.\.1"),
        (["--mean", "0.5"], "mean and std go together"),
        (["--mean", "0.5", "0.5", "--std", "0.2", "0.2"], "one a channel is wanted, 1"),
    ]:
        assert repair_saved.main([*words, *folders, *more, *changed]) == 2
        assert re.search(message, capsys.readouterr().err)
    (tmp_path / "new.safetensors").unlink()
    assert repair_saved.main([*words, "--wrong", str(tmp_path / "clean")]) == 2
    assert "nothing was repaired, and nothing written: the network is right on 40" in capsys.readouterr().err
    assert not (tmp_path / "new.safetensors").exists()
