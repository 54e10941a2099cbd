"""A network pruned for a group of its classes: by hand, kept, and skipped where a pretrained one is not there."""

import copy
from dataclasses import replace

import pytest
import torch

from lib import permission, slicing
from lib.config import ConfigError
from lib.experiments import nnslicer_large as large
from lib.experiments import pretrained
from lib.models import efficientnet_lite
from lib.models.layers import weight_layers
from lib.slicing import SlicingError
from lib.slicing.pruning import centred, centres

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: resnet10-preact, arch_args: {width: 2, normalise: false}, data: mnist5k, epochs: 3, batch: 50,
    train_limit: 1000, learning_rate: 0.05, family: tiny}
study:
  nnslicer:
    data: mnist5k
    seeds: [0, 1]
    large: {network: tiny, target: [3, 5], ratios: [0.3], images: 120, scored: 9}
"""


@pytest.fixture(autouse=True)
def here(shared_places, one_thread):
    with permission.asked():
        yield


@pytest.mark.parametrize("method", ["nnslicer", "effective-path"])
@pytest.mark.parametrize("compensation", [False, True])
def test_accuracies_are_those_of_networks_pruned_by_hand(monkeypatch, method, compensation):
    settings = large.Settings.of("smoke", seeds=[0])
    results = large.LARGE.of(settings)
    run = large.LargeRun(settings, 0)
    model, (first, second) = copy.deepcopy(run.load("tiny")), run.halves("tiny")
    assert len(first) == len(second) == 60 and not torch.equal(first.images, second.images)
    means = slicing.profile(model, first.images, first.labels, 10, None, together=True)
    mine = [k for k, label in enumerate(first.labels.tolist()) if 3 <= label <= 5][:9]
    if method == "nnslicer":
        found = slicing.slice(model, first.images[mine], means, reference="dataset")
    else:
        found = slicing.effective_path(model, first.images[mine])
    right = found.predicted == first.labels[mine]
    at = centres(model, {name: means.input_mean(name) for name in found.synapses}) if compensation else None
    for name, value in found.synapses.items():
        score = value[right].abs().sum(0, dtype=torch.int64).flatten()
        lowest = score.argsort(stable=True)[: int(len(score) * 0.3)]
        with torch.no_grad():
            dict(model.named_modules())[name].weight.view(-1)[lowest] = 0.0
    with centred(model, at), torch.no_grad():
        after = model(second.float()).argmax(1) == second.labels
    group = (second.labels >= 3) & (second.labels <= 5)
    for part, chosen in (("target", group), ("other", ~group)):
        number = results.values("accuracy", method=method, compensation=compensation, group=part)
        assert number["value"].item() == pytest.approx(after[chosen].double().mean().item())
        assert number["n"].item() == int(chosen.sum())
    dense = results.values("accuracy", method="dense")
    assert dense["group"].tolist() == ["target", "other"] and not dense["compensation"].any()
    assert len(large.draw(results).axes) == 2 and len(large.TABLE(results)) == 2 * (1 + 4 * 2)
    monkeypatch.setattr(large.LargeRun, "load", lambda *_: pytest.fail("computed twice"))
    assert large.LARGE.of(settings).numbers == results.numbers


def test_a_pretrained_network_is_pruned_once_for_its_own_group_or_skipped_with_the_reason(monkeypatch):
    """Its stand-in is the scale's, on the same images; over two seeds."""
    ours = large.LargeRun(large.Settings.of("smoke"), 0).load("tiny")
    loaded = []
    known = replace(pretrained.known("efficientnet-lite0"), data="mnist5k", load=lambda: loaded.append(1) or ours)
    monkeypatch.setitem(pretrained.NETWORKS, "efficientnet-lite0", known)
    settings = large.Settings.of("smoke", pretrained=["efficientnet-lite0"], pretrained_target=[0, 4])
    results = large.LARGE.of(settings)
    guest = results.values("accuracy", network="efficientnet-lite0", group="target")
    assert loaded == [1] and guest["n"].unique().tolist() == [30]
    assert len(results.values("accuracy", network="tiny")["per_seed"].iloc[0]) == 2 and len(guest) == 9
    assert len(large.draw(results).axes) == 4
    assert large.LARGE.of(settings).numbers == results.numbers and loaded == [1]

    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    monkeypatch.setitem(pretrained.NETWORKS, "efficientnet-lite0", replace(known, load=efficientnet_lite.pretrained))
    others = large.LARGE.of(
        large.Settings.of("smoke", pretrained=["efficientnet-lite0"], pretrained_target=[0, 4], ratios=[0.2])
    )
    (skipped,) = others.rows("skipped").to_dict("records")
    assert skipped["network"] == "efficientnet-lite0" and "pip install" in skipped["note"]
    assert set(others.values("accuracy")["network"]) == {"tiny"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": [5, 3]}, "want the first and the last target class"),
        ({"target": [0, 9]}, "tiny: of 60 images 60 are of its target classes, 0 to 9"),
        ({"target": [3, 3], "images": 4}, "tiny: of 2 images 0 are of its target classes, 3 to 3"),
        ({"target": [3, 12]}, "tiny: its classes are numbered from 0 to 9"),
        ({"network": "other"}, "other"),
        ({"pretrained": ["other"]}, "no pretrained network 'other'"),
        ({"ratios": [0.3, 0.3]}, "each only once"),
    ],
)
def test_settings_are_checked(wrong, words):
    with pytest.raises(ConfigError, match=words):
        large.LARGE.of(large.Settings.of("smoke", **wrong))


def test_a_group_that_the_network_never_gets_right_is_refused(monkeypatch):
    run = large.LargeRun(large.Settings.of("smoke", ratios=[0.4]), 0)
    model = copy.deepcopy(run.load("tiny"))
    with torch.no_grad():
        model.get_submodule(list(weight_layers(model))[-1]).bias[7] = 1e6
    monkeypatch.setattr(large.LargeRun, "load", lambda *_: model)
    with pytest.raises(SlicingError, match="tiny classifies none of 9 images of its target classes correctly"):
        run.pruned("tiny")
