"""Adversarial sets in the cache: what they hold, resumption, damage, and a second look before use."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from sets_on_disk import flip_bit, truncate
from training_tools import Killed, write_config
from zoo_tools import SMOKE

from lib import config, data, tensors, zoo
from lib.attacks import AttackError, adversarials, candidates, plan, sets
from lib.attacks.__main__ import main

NAME = "rpgd_8"
ATTACKS = {"images": 12, "chunk": 5, NAME: {"epsilon": 0.3, "steps": 3}, "fgsm_8": {"images": 7, "epsilon": 0.3}}


def configure(house, **attacks):
    networks = {"plain": SMOKE["networks"]["plain"]}
    write_config(house / "config", smoke={**SMOKE, "networks": networks, "attacks": {**ATTACKS, **attacks}})
    config.scale._load.cache_clear()


@pytest.fixture
def home(house):
    configure(house)
    return house


@pytest.fixture
def calls(monkeypatch):
    """The chunks that are attacked, as numbers of images; `calls.until` says after how many the process ends."""

    class Calls(list):
        until = 10**6

    seen, attack = Calls(), sets.attack

    def counted(name, model, images, labels, *more, **arguments):
        if len(seen) == seen.until:
            raise Killed
        seen.append(len(images))
        return attack(name, model, images, labels, *more, **arguments)

    monkeypatch.setattr(sets, "attack", counted)
    return seen


def files() -> list:
    """The chunks in the cache."""
    return sorted((config.cache_dir("smoke") / "adversarials").rglob("*.safetensors"))


def same(one, other) -> bool:
    fields = ("images", "labels", "predicted", "success", "distance", "index")
    return all(torch.equal(getattr(one, field), getattr(other, field)) for field in fields)


def test_a_set_holds_the_first_correctly_classified_test_images(home, calls):
    made = adversarials("plain", name=NAME)
    assert calls == [5, 5, 2] and len(files()) == 3 and len(made) == 12
    test, model = data.load("mnist5k", "test"), zoo.get("plain")
    clean = test.float(index=made.index)
    assert torch.equal(made.labels, test.labels[made.index])
    assert torch.equal(sets.predictions(model, clean), made.labels)
    whole = test.stratified(len(test), seed=0)
    right = sets.predictions(model, whole.float()) == whole.labels
    assert torch.equal(whole.images[right][:12].float() / 255, clean)
    assert int(made.success.sum()) > 0
    assert torch.equal(made.images[~made.success], clean[~made.success])
    assert float((made.images - clean).abs().max()) <= 0.3 + 1e-6


def test_a_study_may_attack_fewer(home, calls):
    part = adversarials("plain", name=NAME, images=10)
    assert calls == [5, 5]
    whole = adversarials("plain", name=NAME, images=100)  # more than the scale says
    assert calls == [5, 5, 2] and len(whole) == 12
    assert torch.equal(whole.images[:10], part.images) and torch.equal(whole.index[:10], part.index)
    for count in (0, "many"):
        with pytest.raises(config.ConfigError, match=f"images of {NAME} is {count!r}: a whole number from 1"):
            plan(NAME, images=count)


def test_it_is_made_once(home, calls):
    made = adversarials("plain", name=NAME)
    calls.until = 3
    again = adversarials("plain", name=NAME)
    assert same(made, again) and again.seconds == pytest.approx(made.seconds, abs=0.01)


def test_a_killed_run_loses_one_chunk_and_ends_with_the_same_bytes(home, calls, monkeypatch):
    calls.until = 2
    with pytest.raises(Killed):
        adversarials("plain", name=NAME)
    assert calls == [5, 5] and len(files()) == 2
    calls.until = 3
    resumed = adversarials("plain", name=NAME)
    assert calls == [5, 5, 2]
    first = {path.name: load_file(path)["images"] for path in files()}
    monkeypatch.setenv("NEURONS_CACHE", str(home / "another"))
    calls.until = 10
    assert same(adversarials("plain", name=NAME), resumed)
    second = {path.name: load_file(path)["images"] for path in files()}
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("damage", ["a bit", "a bit of the header", "half of it", "all of it", "a number"])
def test_a_damaged_file_is_made_anew(home, calls, damage):
    made = adversarials("plain", name=NAME)
    path = files()[1]
    if damage.startswith("a bit"):
        flip_bit(path, -1 if damage == "a bit" else 30)
    elif damage == "half of it":
        truncate(path)
    elif damage == "all of it":
        path.write_text("")
    else:
        blob = path.read_bytes()
        place = blob.index(b'"successes":"') + len('"successes":"')
        path.write_bytes(blob[:place] + b"9" + blob[place + 1 :])
    with pytest.warns(UserWarning, match="is damaged: .* made anew"):
        assert same(adversarials("plain", name=NAME), made)
    assert len(calls) == 4
    assert same(adversarials("plain", name=NAME), made) and len(calls) == 4


@pytest.mark.parametrize("how", ["does not fool", "too far"])
def test_what_does_not_hold_any_more_counts_as_failed(home, calls, how):
    made = adversarials("plain", name=NAME)
    row = int(made.success.nonzero()[0])
    clean = data.load("mnist5k", "test").float(index=made.index)
    path = next(path for path in files() if any(torch.equal(made.images[row], image) for image in _images(path)))
    kept = _images(path)
    place = next(k for k, image in enumerate(kept) if torch.equal(image, made.images[row]))
    worse = clean[row] if how == "does not fool" else (clean[row] + 1.5 * (made.images[row] - clean[row])).clamp(0, 1)
    kept[place] = worse
    _rewrite(path, kept)
    with pytest.warns(UserWarning, match=r"1 of \d adversarial images do not fool the network any more, or break"):
        again = adversarials("plain", name=NAME)
    assert not again.success[row] and torch.equal(again.images[row], clean[row])
    assert again.predicted[row] == again.labels[row] and again.distance[row] == 0
    others = torch.arange(12) != row
    assert same(again[others], made[others]) and len(calls) == 3


def _images(path):
    return load_file(path)["images"]


def _rewrite(path, images):
    """Other images in a file that is whole, as if the attack had made them."""
    tensors.write(path, {"images": images}, tensors.read(path)[1])


def test_smaller_sets_are_part_of_larger_ones(home, calls, house):
    made = adversarials("plain", name=NAME)
    configure(house, images=10)
    smaller = adversarials("plain", name=NAME)
    assert same(smaller, made[:10]) and calls == [5, 5, 2]
    configure(house, images=13)
    larger = adversarials("plain", name=NAME)
    assert torch.equal(larger.index[:12], made.index) and calls == [5, 5, 2, 3]
    assert len(adversarials("plain", name="fgsm_8")) == 7
    assert torch.equal(adversarials("plain", name="fgsm_8").index, made.index[:7])


def test_other_parameters_seeds_and_networks_are_other_sets(home, calls, house):
    made = adversarials("plain", name=NAME)
    configure(house, **{NAME: {"epsilon": 0.3, "steps": 4}})
    assert not torch.equal(adversarials("plain", name=NAME).images, made.images)
    assert len(files()) == 6
    other = adversarials("plain", seed=1, name=NAME)
    assert len({path.parent for path in files()}) == 3 and len(calls) == 9
    assert not torch.equal(other.images, made.images)


def test_a_network_that_gets_few_right_gives_few(home):
    test = data.load("mnist5k", "test")
    model = zoo.get("plain")
    index = candidates(model, test, 10**6, config.cache_dir("smoke"), "w")
    right = int((sets.predictions(model, test.float()) == test.labels).sum())
    assert len(index) == right < len(test)
    wrong = dataclasses.replace(test, labels=(test.labels + 5) % 10, classes=test.classes)
    never = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    with torch.no_grad():
        never[1].weight.zero_()
        never[1].bias.copy_(torch.eye(10)[0])
    nines = wrong.subset(wrong.labels != 0)
    with pytest.raises(AttackError, match="classifies no image of mnist5k/test correctly"):
        candidates(never, nines, 5, config.cache_dir("smoke"), "v")


def test_plans(home, house):
    assert (plan(NAME).images, plan(NAME).chunk) == (12, 5)
    assert plan(NAME).parameters == {"epsilon": 0.3, "steps": 3, "rel_stepsize": 0.25}
    assert plan("fgsm_8").images == 7
    assert plan("jsma").parameters["steps"] == 100
    write_config(house / "config", smoke={**SMOKE, "networks": {}})
    config.scale._load.cache_clear()
    assert (plan("jsma").images, plan("jsma").chunk) == (1000, 50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fgsm_9": {"images": 3}}, "smoke.yaml: attacks: no attack 'fgsm_9': one of fgsm_2"),
        ({"jsma": {"step": 3}}, "attack 'jsma' has no parameter 'step': one of steps, theta"),
        ({"jsma": {"images": 0}}, "images of jsma is 0: a whole number from 1"),
        ({"jsma": 3}, "jsma is 3: a mapping"),
        ({"chunk": "many"}, "chunk of jsma is 'many'"),
    ],
)
def test_settings_that_do_not_fit(home, house, change, message):
    configure(house, **change)
    with pytest.raises(config.ConfigError, match=message):
        plan("jsma")


def test_an_attack_that_does_not_exist(home):
    with pytest.raises(AttackError, match="no attack 'pgd': one of fgsm_2, fgsm_4"):
        adversarials("plain", name="pgd")


def test_the_command_line(home, calls, capsys):
    assert main(["--network", "plain", "--attack", NAME, "fgsm_8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and calls == [5, 5, 2, 5, 2]
    made = adversarials("plain", name=NAME)
    assert lines[0].startswith(f"RPGD_8: {made.success_rate:.1%} of 12 images, median linf distance 0.3, ")
    assert lines[0].endswith(" s")
    assert main(["--network", "none", "--attack", NAME]) == 1
    assert "no network 'none'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--network", "plain", "--attack", "pgd"])
    assert "choose from" in (message := capsys.readouterr().err) and "gaussian_blur" in message
