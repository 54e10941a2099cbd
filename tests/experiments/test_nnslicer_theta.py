"""Slices at several theta and slices of sets: against slices taken one by one and the experiments they are made of."""

import numpy as np
import pandas as pd
import pytest
import torch
from training_tools import places

from lib import permission, slicing
from lib.config import ConfigError
from lib.experiments import nnslicer_anatomy, nnslicer_pruning, nnslicer_sets, nnslicer_theta
from lib.experiments.nnslicer_theta import NEURON, SET_SLICE, THETA, Settings, ThetaRun

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: resnet10-preact, arch_args: {width: 2, normalise: false}, data: mnist5k, epochs: 3, batch: 50,
    train_limit: 1000, learning_rate: 0.05, family: tiny}
study:
  nnslicer:
    data: mnist5k
    network: tiny
    seeds: [0]
    profile_per_class: 5
    scores_per_class: 2
    anatomy: {images_per_class: 2}
    pruning: {subsets: 2, ratios: [0.5], closer_subsets: 1, test_images: 60}
    theta_sweep: {thetas: [0.2, 0.5], images_per_class: 2, ratios: [0.5], subsets: 2, test_images: 60}
"""


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    """Configuration, cache and results that the tests of this file share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("theta")
    with pytest.MonkeyPatch.context() as patch, permission.asked():
        places(patch, folder)
        (folder / "config").mkdir(exist_ok=True)
        for name in ("smoke", "paper"):
            (folder / "config" / f"{name}.yaml").write_text(CONFIG)
        yield folder
    torch.set_num_threads(threads)


def never(*_, **__):
    raise AssertionError("computed twice")


@pytest.fixture
def run():
    return ThetaRun(Settings.of("smoke"), 0)


def by_hand(run, theta):
    """The slices of the anatomy's images, each alone, and their labels."""
    own = run.anatomy(theta)
    images, labels = own.chosen()
    return [slicing.slice(own.model, image[None], own.profile(), theta) for image in images], labels


def test_sizes_and_overlaps_are_those_of_slices_taken_one_by_one(run):
    sweep = THETA.of(run.settings)
    each, labels = by_hand(run, 0.5)
    for chosen, name in ((["blocks.3.conv2"], "blocks.3.conv2"), (list(each[0].synapses), "all")):
        on = [np.concatenate([one.synapses[layer].numpy().ravel() != 0 for layer in chosen]) for one in each]
        assert sweep.value("synapses", theta=0.5, layer=name) == pytest.approx(np.mean(on))
        jaccard, held = {True: [], False: []}, {True: [], False: []}
        for a in range(len(on)):
            for b in range(len(on)):
                if a != b:
                    alike, both, either = bool(labels[a] == labels[b]), (on[a] & on[b]).sum(), (on[a] | on[b]).sum()
                    jaccard[alike] += [both / either] if either else []
                    held[alike] += [both / on[a].sum()] if on[a].any() else []
        for measure, alike in (("same_class", True), ("other_class", False)):
            assert sweep.value(measure, theta=0.5, layer=name) == pytest.approx(np.mean(jaccard[alike]))
            assert sweep.value(f"{measure}_held", theta=0.5, layer=name) == pytest.approx(np.mean(held[alike]))


def test_slices_get_smaller_as_theta_grows(run):
    layers = {theta: run.layers(theta).set_index("layer") for theta in (0.0, 0.2, 0.5, 0.9)}
    for measure in ("synapses", "neurons"):
        sizes = [frame.loc["all", measure] for frame in layers.values()]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[-1] > 0


def test_the_theta_of_the_scale_gives_what_anatomy_and_pruning_have(run):
    layers, known = run.layers(0.2), nnslicer_anatomy.AnatomyRun(nnslicer_anatomy.Settings.of("smoke"), 0)
    shared = known.layers("nnslicer")
    pd.testing.assert_frame_equal(layers[shared.columns], shared)

    usual = nnslicer_pruning.PruningRun(nnslicer_pruning.Settings.of("smoke"), 0)
    scores, others = usual.scores("nnslicer"), run.pruning(0.5).scores("nnslicer")
    found = run.pruning(0.2).scores("nnslicer")
    assert found.keys() == scores.keys() and all(torch.equal(found[layer], scores[layer]) for layer in scores)
    assert any(not torch.equal(others[layer], scores[layer]) for layer in scores)

    frame, pruned = nnslicer_theta.swept(run.settings, 0), nnslicer_pruning.pruned(usual.settings, 0)
    at = ["method", "ratio", "compensation"]
    own = frame[(frame["measure"] == "accuracy") & (frame["theta"] != 0.5)].set_index(at)["value"]
    wanted = pruned[pruned["measure"] == "accuracy"].set_index(at)["value"]
    compared = [place for place in own.index if place[0] != "dense"]
    assert len(compared) == 3 * 2 and {place[0] for place in compared} == {"nnslicer", "weight", "channel"}
    assert all(own[place] == wanted[place] for place in compared)
    assert own["dense", 0.0, False] == wanted["nnslicer", 0.0, False]


def test_another_reference_is_that_of_anatomy_and_other_scores():
    run = ThetaRun(Settings.of("smoke", reference="dataset"), 0)
    known = nnslicer_anatomy.AnatomyRun(nnslicer_anatomy.Settings.of("smoke"), 0).layers("nnslicer-dataset")
    pd.testing.assert_frame_equal(run.layers(0.2)[known.columns], known)
    assert run.pruning(0.2).settings.reference == "dataset"


def test_the_slice_of_a_set_is_the_sum_of_its_images_slices(run):
    results = SET_SLICE.of(run.settings)
    each, labels = by_hand(run, run.settings.theta)
    rows, numbers = results.rows("picture"), results.values("neurons")
    for layer in ("stem", "blocks.3.conv2", "fc"):
        inside = []
        for label in run.settings.set_classes:
            parts = [one.neurons[layer].numpy() for one, k in zip(each, labels, strict=True) if k == label]
            inside.append(sum(part.astype(int) for part in parts).ravel() != 0)
        cells = "".join(rows[rows["layer"] == layer].sort_values("channel")["cells"])
        assert [int(cell) for cell in cells] == (inside[0] + 2 * inside[1]).tolist()
        shares = numbers[numbers["layer"] == layer].set_index("part")["value"]
        assert shares.sum() == pytest.approx(1)
        assert shares["both"] == pytest.approx(np.mean(inside[0] & inside[1]))
        assert shares["3 alone"] == pytest.approx(np.mean(inside[0] & ~inside[1]))
    assert len(results.figure.axes) == len(nnslicer_sets.drawn_layers(rows)) == 5


def test_a_channel_as_one_neuron_is_sliced_with_its_mean(run):
    settings = run.settings
    neurons, theta = NEURON.of(settings), settings.theta
    own = run.anatomy(theta)
    images, _ = own.chosen()
    for neuron, profile in (("position", own.profile()), ("channel", own.profile().of_channels())):
        found = slicing.slice(own.model, images, profile, theta)
        share = found.share()["blocks.1.conv1"].mean().item()
        assert neurons.value("synapses", neuron=neuron, layer="blocks.1.conv1") == pytest.approx(share)
    assert neurons.value("synapses", neuron="channel", layer="all") != neurons.value(
        "synapses", neuron="position", layer="all"
    )
    whole = ThetaRun(Settings.of("smoke", neuron="channel"), 0)
    assert whole.layers(theta).equals(run.of("channel").layers(theta)), "as where all of the experiment is so"
    assert len(neurons.table) == 2 and len(neurons.figure.axes) == 2


def test_a_mosaic_has_each_neuron_once_at_its_place():
    rows = pd.DataFrame({"width": [3] * 3, "cells": ["012301", "111111", "222222"]})
    found = nnslicer_sets.mosaic(rows)
    assert found.shape == (2 * 2 + 1, 2 * 3 + 1) and np.isnan(found).sum() == 35 - 18
    assert found[:2, :3].tolist() == [[0, 1, 2], [3, 0, 1]]
    assert (found[:2, 4:] == 1).all() and (found[3:, :3] == 2).all() and np.isnan(found[3:, 4:]).all()


def test_what_is_kept_is_not_computed_again(monkeypatch, run):
    sweep, sets = THETA.of(run.settings), SET_SLICE.of(run.settings)
    monkeypatch.setattr(nnslicer_theta, "AnatomyRun", never)
    monkeypatch.setattr(nnslicer_theta, "PruningRun", never)
    assert THETA.of(run.settings).numbers == sweep.numbers and SET_SLICE.of(run.settings).numbers == sets.numbers
    for changed in ({"thetas": [0.1]}, {"profile_per_class": 4}, {"images_per_class": 3}, {"ratios": [0.4]}):
        with pytest.raises(AssertionError, match="computed twice"):
            THETA.of(Settings.of("smoke", **changed))
    with pytest.raises(AssertionError, match="computed twice"):
        ThetaRun(Settings.of("smoke", set_classes=[1, 2]), 0).sets()
    nnslicer_theta.make("smoke", 0)
    nnslicer_theta.make("smoke", 1)  # is none of this experiment's seeds: there is nothing to do
    fewer = ThetaRun(Settings.of("smoke", scores_per_class=1), 0)
    assert len(fewer.accuracies(None)) == len(fewer.settings.wanted()) * (1 + 2) * 2  # these need no slices
    with pytest.raises(AssertionError, match="computed twice"):
        fewer.accuracies(0.2)


def test_the_table_has_a_row_a_theta_and_the_methods_that_know_none(run):
    sweep = THETA.of(run.settings)
    assert sweep.table["theta"].dropna().tolist() == [0.2, 0.5]
    assert sweep.table["method"].tolist() == ["NNSlicer", "NNSlicer", "Channel", "Weight"]
    assert len(sweep.figure.axes) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"thetas": [0.2, 1.0]}, "thetas"),
        ({"thetas": [0.2, 0.2]}, "only once"),
        ({"set_classes": [3, 3]}, "only once"),
        ({"set_classes": [3, 10]}, "numbered from 0 to 9"),
        ({"images_per_class": 1}, "images_per_class"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        Settings.of("smoke", **changed)
