"""Gates epoch by epoch: from which first weights, what is told of them, and the published rule."""

import numpy as np
import pytest
import torch
from torch import nn

from lib.experiments import scratch_gates, scratch_networks
from lib.experiments.scratch_gates import FIRST, GatesRun, Settings

EPOCHS = 3


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def house(monkeypatch, tmp_path):
    """The smoke scale, with a cache and results of its own."""
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))


@pytest.fixture
def settings(house):
    return Settings.of("smoke", gate_images=200, gate_epochs=EPOCHS)


def test_first_weights_are_those_that_they_are_said_to_be(settings):
    own, released = (GatesRun(settings, 0).first("scratch-vgg16", drawn) for drawn in FIRST)
    for model, scale, deviation in ((own, 1.0, None), (released, 0.5, 0.01)):
        assert all((m.weight == scale).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        wanted = (2 / last.in_features) ** 0.5 if deviation is None else deviation
        assert last.weight.std().item() == pytest.approx(wanted, rel=0.2)
    again = GatesRun(settings, 0).first("scratch-vgg16", "released")
    assert all(torch.equal(a, b) for a, b in zip(released.parameters(), again.parameters(), strict=True))


@pytest.mark.slow
def test_each_epoch_is_told_and_the_structure_becomes_that_at_the_end(settings):
    results = scratch_gates.GATES.of(settings)
    for first in FIRST:
        rows = {
            name: results.values(name, first=first).sort_values("step") for name in ("zeros", "likeness", "mean_gate")
        }
        assert all(len(part) == EPOCHS for part in rows.values())
        assert rows["likeness"]["value"].iloc[-1] == 1.0
        assert rows["mean_gate"]["value"].is_monotonic_decreasing  # from 1, towards what the penalty asks for
        assert results.value("met", first=first) == float((1 - rows["zeros"]["value"] <= settings.gate_ratio).any())
    assert len(results.table) == len(FIRST) and results.figure is not None


@pytest.mark.slow
def test_the_structure_of_the_other_experiments_is_set_beside_it(settings):
    results = scratch_gates.GATES.of(settings)
    other = scratch_networks.ScratchRun(scratch_networks.Settings.of("smoke"), 0)
    usual = other.structure("scratch-vgg16", "scratch", settings.budget, settings.expansion)
    for first in FIRST:
        table = GatesRun(settings, 0).learned("scratch-vgg16", first)
        last = table[table["step"] == table["step"].max()].set_index("layer")["share"]
        wanted = np.corrcoef(usual["kept"] / usual["width"], last[usual["layer"]])[0, 1]
        assert results.value("likeness_of_usual", first=first) == pytest.approx(wanted)


def test_the_published_rule_is_met_once_enough_gates_are_zero(settings, monkeypatch):
    learned = GatesRun.learned

    def with_zeros(run, name, drawn):
        table = learned(run, name, drawn)
        return table.assign(zeros=[0.8 if step == table["step"].max() else 0.1 for step in table["step"]])

    assert scratch_gates.GATES.of(settings).value("met", first="own") == 0.0
    monkeypatch.setattr(GatesRun, "learned", with_zeros)
    assert scratch_gates.GATES.of(settings).value("met", first="own") == 1.0
