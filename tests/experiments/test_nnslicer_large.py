"""A network pruned for a group of its classes: by hand, kept, and skipped where a pretrained one is not there."""

from dataclasses import replace

import pytest
import torch

from lib import permission, slicing
from lib.config import ConfigError
from lib.experiments import nnslicer_large as large
from lib.experiments import pretrained
from lib.models import efficientnet_lite

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: resnet10-preact, arch_args: {width: 2, normalise: false}, data: mnist5k, epochs: 3, batch: 50,
    train_limit: 1000, learning_rate: 0.05, family: tiny}
study:
  nnslicer:
    data: mnist5k
    seeds: [0]
    large: {targets: {tiny: [3, 5]}, ratios: [0.3], images: 120, scored: 9}
"""


@pytest.fixture(autouse=True)
def here(shared_places, one_thread):
    with permission.asked():
        yield


def test_accuracies_are_those_of_networks_pruned_by_hand(monkeypatch):
    settings = large.Settings.of("smoke")
    results = large.LARGE.of(settings)
    run = large.LargeRun(settings, 0)
    model, (first, second) = run.load("tiny"), run.halves("tiny")
    assert len(first) == len(second) == 60 and not torch.equal(first.images, second.images)
    means = slicing.profile(model, first.images, first.labels, 10, None, together=True)
    mine = [k for k, label in enumerate(first.labels.tolist()) if 3 <= label <= 5][:9]
    found = slicing.slice(model, first.images[mine], means, reference="dataset")
    right = found.predicted == first.labels[mine]
    group = (second.labels >= 3) & (second.labels <= 5)
    for name, value in found.synapses.items():
        score = value[right].abs().sum(0, dtype=torch.int64).flatten()
        weight = dict(model.named_modules())[name].weight
        lowest = score.argsort(stable=True)[: int(len(score) * 0.3)]
        with torch.no_grad():
            weight.view(-1)[lowest] = 0.0
    after = model(second.float()).argmax(1) == second.labels
    for part, chosen in (("target", group), ("other", ~group)):
        number = results.values("accuracy", method="nnslicer", compensation=False, group=part)
        assert number["value"].item() == pytest.approx(after[chosen].double().mean().item())
        assert number["n"].item() == int(chosen.sum())
    dense = results.values("accuracy", method="dense")
    assert dense["group"].tolist() == ["target", "other"] and not dense["compensation"].any()
    assert len(large.draw(results).axes) == 2 and len(large.TABLE(results)) == 2 * (1 + 4 * 2)
    monkeypatch.setattr(large.LargeRun, "load", lambda *_: pytest.fail("computed twice"))
    assert large.LARGE.of(settings).numbers == results.numbers


def test_a_pretrained_network_that_is_not_there_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    known = replace(pretrained.known("efficientnet-lite0"), data="mnist5k")
    monkeypatch.setitem(pretrained.NETWORKS, "efficientnet-lite0", known)
    targets = {"tiny": [3, 5], "efficientnet-lite0": [0, 4]}
    results = large.LARGE.of(large.Settings.of("smoke", targets=targets))
    (skipped,) = results.rows("skipped").to_dict("records")
    assert skipped["network"] == "efficientnet-lite0" and "pip install" in skipped["note"]
    assert set(results.values("accuracy")["network"]) == {"tiny"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"targets": {"tiny": [5, 3]}}, "tiny: want the first and the last target class"),
        ({"targets": {"tiny": [0, 9]}}, "tiny: some of its 10 classes have to be others"),
        ({"targets": {"tiny": [3, 12]}}, "tiny: classes are numbered from 0 to 9"),
        ({"targets": {"other": [0, 3]}}, "other"),
        ({"ratios": [0.3, 0.3]}, "each only once"),
        ({"targets": {}}, "targets"),
    ],
)
def test_settings_are_checked(wrong, words):
    with pytest.raises(ConfigError, match=words):
        large.LARGE.of(large.Settings.of("smoke", **wrong))
