"""Backdoored networks of a scale: listed from the configuration, repaired once, kept, and read again."""

import pytest
import torch

from lib import config, data, zoo
from lib.lancet.backdoors.attack import of_network
from lib.lancet.errors import LancetError
from lib.lancet.measures import measure
from lib.lancet.study import backdoor_records, backdoors
from lib.lancet.study import settings as shared
from lib.lancet.study.repairs import METHODS

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
recipes:
  digits: {arch: digits-cnn, arch_args: {width: 4}, data: mnist5k, epochs: 6, batch: 50, train_limit: 1500,
    learning_rate: 0.05, family: lancet-mnist}
networks:
  lancet-mnist-clean: {like: digits}
  lancet-mnist-regular-4:
    like: digits
    prepare: [{use: lib.lancet.backdoors.badnets.poison, trigger: regular-4, target: 0, share: 0.1}]
  lancet-trojannn-square:
    like: digits
    start: {network: lancet-mnist-clean}
    prepare: [{use: lib.lancet.backdoors.trojannn.poison, form: square, steps: 5, target: 0, share: 0.1}]
    epochs: 2
    family: lancet-trojannn
study:
  lancet: {data: mnist5k, seeds: [0], families: [lancet-mnist, lancet-trojannn],
    repair_images: 100, report_images: 100, repair_pairs: 4, unlearn_steps: 3, tune_epochs: 1, tune_copies: 1,
    tune_rates: [0.001], reverse_steps: 20, reverse_images: 32, fine_prune_steps: 2}
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Configuration, cache and results that the tests of this file share."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "config").mkdir()
    for name in ("smoke", "paper"):
        (folder / "config" / f"{name}.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def scale(house, monkeypatch, one_thread):
    for name in ("config", "cache", "results"):
        monkeypatch.setenv(f"NEURONS_{name.upper()}", str(house / name))
    shared.parts.cache_clear()
    strict = torch.are_deterministic_algorithms_enabled()
    yield "smoke"
    torch.use_deterministic_algorithms(strict)
    shared.parts.cache_clear()


def never(*_, **__):
    raise AssertionError("computed twice")


def test_networks_come_from_the_configuration(scale, monkeypatch):
    (found,) = backdoors.networks(scale)
    assert (found.name, found.data, found.trigger, found.target) == (
        "lancet-mnist-regular-4",
        "mnist5k",
        "regular-4",
        0,
    )
    (other,) = backdoors.networks(scale, "trojannn")
    assert other.trigger == "trojannn-square" and other.making == {"form": "square", "steps": 5}
    seen = []
    monkeypatch.setattr(backdoors, "repaired", lambda scale, seed, network: seen.append((network.name, seed)))
    for make in (backdoors.make_first_half, backdoors.make_second_half, backdoors.make_trojannn, backdoors.make):
        make(scale, 3)
    assert seen == [(found.name, 3), (other.name, 3), (found.name, 3)]
    with pytest.raises(LancetError, match="its network has no backdoor"):
        of_network("lancet-mnist-clean", scale)


def test_families_without_a_backdoor_are_named(house, scale, monkeypatch):
    chosen = {**backdoors.settings(scale), "families": ["lancet-none"]}
    monkeypatch.setattr(backdoors, "settings", lambda scale: chosen)
    with pytest.raises(LancetError, match="none of the families lancet-none holds a backdoored network"):
        backdoors.networks(scale)


@pytest.mark.slow
def test_a_network_is_repaired_once_and_measured_on_other_images(scale, monkeypatch):
    (network,) = backdoors.networks(scale)
    frame = backdoors.repaired(scale, 0, network)
    assert len(frame) == 2 * len(METHODS) and not frame.duplicated(["method", "reversed"]).any()
    assert set(frame["network"]) == {network.name} and set(frame["trigger"]) == {"regular-4"}
    repair, report = shared.parts(scale, "mnist5k")
    before = frame[frame["method"] == "none"].iloc[0]
    told = measure(zoo.get(network.name, scale, 0), report, None, of_network(network.name, scale).trigger, 0)
    assert {name: before[name] for name in told} == pytest.approx(told) and told["attack_success"] > 0.8
    pixels = {bytes(image.flatten().tolist()) for image in repair.images}
    assert not any(bytes(image.flatten().tolist()) in pixels for image in report.images)
    pruned = frame[frame["method"] == "fine-prune"]
    assert len(pruned) == 2 and pruned["accuracy"].nunique() == 1 and pruned["known_success"].isna().all()

    monkeypatch.setattr(backdoors, "_rows", never)
    monkeypatch.setattr(backdoors, "reverse", never)
    assert backdoors.repaired(scale, 0, network).equals(frame)
    numbers = backdoor_records.backdoor_numbers({0: backdoors.table(scale, 0)})
    assert "nan" not in backdoor_records.markdown(backdoor_records.backdoor_table(numbers)).lower()
    assert "1 backdoored networks" in backdoor_records.setting_text(scale, [0], {0: frame})


@pytest.mark.slow
def test_a_reversed_trigger_is_kept_as_an_image_holds_it(scale, monkeypatch):
    (network,) = backdoors.networks(scale)
    found = backdoors.reversed_trigger(scale, 0, network)
    assert found.mask.shape == (1, 28, 28) and found.pattern.shape == (1, 28, 28)
    for planes in (found.mask, found.pattern):
        assert torch.equal(planes, (planes * 255).round() / 255) and planes.max() > 0
    monkeypatch.setattr(backdoors, "reverse", never)
    again = backdoors.reversed_trigger(scale, 0, network)
    assert torch.equal(found.mask, again.mask) and torch.equal(found.pattern, again.pattern)


@pytest.mark.slow
def test_the_trigger_of_a_trojannn_network_is_the_one_it_was_trained_with(scale):
    (network,) = backdoors.networks(scale, "trojannn")
    trigger = of_network(network.name, scale).trigger
    images = data.load("mnist5k", "train").stratified(config.load(scale).recipe(network.name).train_limit, seed=0)
    from lib.lancet.backdoors import badnets, trojannn

    start = zoo.get("lancet-mnist-clean", scale)
    poisoned = trojannn.poison(images, start=start, seed=0, **network.making)
    victims = badnets.victims(images.labels, 0, 0.1, 0)
    expected = (trigger.stamp(images.float(index=victims)) * 255).round() / 255
    assert torch.allclose(poisoned.float(index=victims), expected, atol=1e-6)
    assert len(images) == 1500 and data.SETS["mnist5k"].shape == tuple(trigger.pattern.shape)
