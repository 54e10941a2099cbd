"""Backdoored networks of a scale: listed from the configuration, repaired once, kept, and read again."""

import pytest
import torch

from lib import config, data, zoo
from lib.experiments import lancet
from lib.experiments import lancet_backdoors as backdoors
from lib.experiments.item import markdown
from lib.experiments.lancet_repairs import METHODS
from lib.lancet.backdoors.attack import of_network
from lib.lancet.errors import LancetError
from lib.lancet.measures import measure

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
  lancet:
    {data: mnist5k, seeds: [0], families: [lancet-mnist, lancet-trojannn], repair_images: 100, report_images: 100,
    repair_pairs: 4, reverse_steps: 20, reverse_images: 32,
    backdoors: {unlearn_steps: 3, tune_epochs: 1, tune_copies: 1, tune_rates: [0.001], fine_prune_steps: 2}}
"""


@pytest.fixture
def scale(shared_places, one_thread):
    strict = torch.are_deterministic_algorithms_enabled()
    yield "smoke"
    torch.use_deterministic_algorithms(strict)


def never(*_, **__):
    raise AssertionError("computed twice")


def test_networks_come_from_the_configuration(scale, monkeypatch):
    settings = backdoors.Settings.of(scale)
    found, other = lancet.networks(settings)
    assert (found.name, found.data, found.kind, found.trigger, found.target) == (
        *("lancet-mnist-regular-4", "mnist5k", "badnets", "regular-4"),
        0,
    )
    assert other.trigger == "trojannn-square" and lancet.networks(settings, ["trojannn"]) == [other]
    assert lancet.networks(backdoors.Settings.of(scale, triggers=["regular-4"])) == [found]
    assert settings.told("families") == 2
    seen = []
    monkeypatch.setattr(backdoors.RepairRun, "repaired", lambda run, network: seen.append((network.name, run.seed)))
    for make in (backdoors.make_first_half, backdoors.make_second_half):
        make(scale, 3)
    assert seen == [(found.name, 3)]
    with pytest.raises(LancetError, match="its network has no backdoor"):
        of_network("lancet-mnist-clean", scale)


def test_families_and_triggers_that_are_not_there_are_named(scale):
    with pytest.raises(LancetError, match="none of the families lancet-none holds a backdoored network"):
        lancet.networks(backdoors.Settings.of(scale, families=["lancet-none"]))
    with pytest.raises(LancetError, match="no network has regular-9: one of regular-4, trojannn-square"):
        lancet.networks(backdoors.Settings.of(scale, triggers=["regular-9"]))


def test_the_first_images_take_turns_and_may_leave_a_class_out(scale):
    images = data.load("mnist5k", "test").stratified(100, seed=0)
    order = lancet.in_turns(images)
    assert sorted(order.tolist()) == list(range(100)) and len(set(images.labels[order[:10]].tolist())) == 10
    assert 0 not in images.labels[lancet.in_turns(images, without=0)]
    assert torch.equal(lancet.in_turns(images, 7, without=0), lancet.in_turns(images, without=0)[:7])


@pytest.mark.slow
def test_a_network_is_repaired_once_and_measured_on_other_images(scale, monkeypatch):
    run = backdoors.RepairRun(backdoors.Settings.of(scale), 0)
    network = lancet.networks(run.settings)[0]
    frame = run.repaired(network)
    assert len(frame) == 2 * len(METHODS) and not frame.duplicated(["method", "reversed"]).any()
    assert set(frame["network"]) == {network.name} and set(frame["trigger"]) == {"regular-4"}
    repair, report = run.parts("mnist5k")
    assert run.read.data["mnist5k/repair"] == repair.fingerprint and len(run.read.tables) == 4
    before = frame[frame["method"] == "none"].iloc[0]
    told = measure(zoo.get(network.name, scale, 0), report, None, of_network(network.name, scale).trigger, 0)
    assert {name: before[name] for name in told} == pytest.approx(told) and told["attack_success"] > 0.8
    pixels = {bytes(image.flatten().tolist()) for image in repair.images}
    assert not any(bytes(image.flatten().tolist()) in pixels for image in report.images)
    pruned = frame[frame["method"] == "fine-prune"]
    assert len(pruned) == 2 and pruned["accuracy"].nunique() == 1 and pruned["known_success"].isna().all()

    monkeypatch.setattr(backdoors, "repairs", never)
    monkeypatch.setattr(lancet, "reverse", never)
    assert run.repaired(network).equals(frame)
    alone = backdoors.Settings.of(scale, families=["lancet-mnist"])
    assert "nan" not in markdown(backdoors.BACKDOORS.of(alone).table).lower()


@pytest.mark.slow
def test_a_reversed_trigger_is_kept_as_an_image_holds_it(scale, monkeypatch):
    run = backdoors.RepairRun(backdoors.Settings.of(scale), 0)
    network = lancet.networks(run.settings)[0]
    found = run.reversed_trigger(network)
    assert found.mask.shape == (1, 28, 28) and found.pattern.shape == (1, 28, 28)
    for planes in (found.mask, found.pattern):
        assert torch.equal(planes, (planes * 255).round() / 255) and planes.max() > 0
    monkeypatch.setattr(lancet, "reverse", never)
    again = run.reversed_trigger(network)
    assert torch.equal(found.mask, again.mask) and torch.equal(found.pattern, again.pattern)


@pytest.mark.slow
def test_the_trigger_of_a_trojannn_network_is_the_one_it_was_trained_with(scale):
    (network,) = lancet.networks(backdoors.Settings.of(scale), ["trojannn"])
    trigger = of_network(network.name, scale).trigger
    images = data.load("mnist5k", "train").stratified(config.load(scale).recipe(network.name).train_limit, seed=0)
    from lib.lancet.backdoors import badnets, trojannn

    start = zoo.get("lancet-mnist-clean", scale)
    poisoned = trojannn.poison(images, start=start, seed=0, form="square", steps=5)
    victims = badnets.victims(images.labels, 0, 0.1, 0)
    expected = (trigger.stamp(images.float(index=victims)) * 255).round() / 255
    assert torch.allclose(poisoned.float(index=victims), expected, atol=1e-6)
    assert len(images) == 1500 and data.SETS["mnist5k"].shape == tuple(trigger.pattern.shape)
