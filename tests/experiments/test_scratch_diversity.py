"""How alike structures are: correlations by hand, and structures of a network in training."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scratch_tools
from training_tools import same, state

from lib import plots, training
from lib.experiments import scratch_diversity
from lib.experiments.item import Results
from lib.experiments.run import Run
from lib.experiments.scratch_diversity import DIVERSITY, MEASURES, Settings, StartRun

tiny = scratch_tools.tiny
pytestmark = pytest.mark.usefixtures("one_thread")


def structures(starts=3) -> pd.DataFrame:
    """As `scratch_diversity.structures` has it: alike once trained, far apart before."""
    made = []
    for start in range(starts):
        for epoch in (-1, 0, 2):
            for layer, width in enumerate((10, 20, 40)):
                share = {-1: (0.2, 0.9, 0.5), 0: (0.5, 0.5 + 0.1 * start, 0.8 - 0.2 * start), 2: (0.9, 0.5, 0.2)}[epoch]
                row: dict[str, Any] = {"initialisation": start, "epoch": epoch, "layer": f"l{layer}", "width": width}
                row |= {"zeros": None if epoch < 0 else 0.1, "mean_gate": None if epoch < 0 else 0.5}
                row |= {"accuracy": 0.7 + 0.01 * epoch + 0.001 * start, "n": 500}
                made.append({**row, "kept": round(share[layer] * width)})
    return pd.DataFrame(made)


def results(starts=3) -> Results:
    settings = Settings.of("smoke")
    frame = Run(settings, 0).tidy(scratch_diversity.measured("net", structures(starts)))
    return Results(DIVERSITY, settings, {0: frame})


def test_correlations_between_initialisations():
    found = scratch_diversity.between_starts(structures()).set_index(["epoch", "initialisation"])
    assert (found.loc[2, "correlation"] == 1).all() and (found.loc[2, "distance"] == 0).all()
    ratio = {start: np.array([0.5, 0.5 + 0.1 * start, 0.8 - 0.2 * start]) for start in range(3)}
    wanted = np.mean([np.corrcoef(ratio[0], ratio[other])[0, 1] for other in (1, 2)])
    assert found.loc[(0, 0), "correlation"] == pytest.approx(wanted)
    assert found.loc[(0, 0), "distance"] == pytest.approx(np.mean([abs(ratio[0] - ratio[k]).mean() for k in (1, 2)]))
    assert found.loc[(0, 0), "count_correlation"] > found.loc[(0, 0), "correlation"]  # wide layers have more to keep


def test_correlation_where_nothing_varies():
    flat, bent = np.array([0.5, 0.5]), np.array([0.4, 0.6])
    assert scratch_diversity.correlation(flat, flat) == 1 and scratch_diversity.correlation(flat, bent) == 0
    assert scratch_diversity.correlation(bent, bent[::-1]) == pytest.approx(-1)


def test_a_matrix_is_of_every_two_structures():
    found = scratch_diversity.matrix(structures())
    assert found.shape == (9, 9) and np.allclose(found, found.T) and np.allclose(np.diag(found), 1)
    assert (found.loc[2][2] == 1).all(axis=None)


def test_numbers_table_and_figure():
    found = results()
    assert list(dict.fromkeys(found.values("accuracy")["start"])) == ["random scores", "random weights", "trained"]
    assert found.value("accuracy", start="trained", initialisation=1) == pytest.approx(0.721)
    assert set(found.values("zero_gates")["start"]) == {"random weights", "trained"}
    assert len(found.table) == 9 and not found.table.isna().any(axis=None)
    assert [ax.get_title() for ax in found.figure.axes] == [
        MEASURES[k] for k in ("correlation", "distance", "accuracy")
    ]
    assert scratch_diversity.start_of(1, 4) == "after epoch 1"


def test_one_initialisation_has_no_pairs():
    found = results(starts=1)
    assert {number["name"] for number in found.numbers} == {"accuracy", "mean_gate", "zero_gates"}
    assert list(found.table.columns) == [*scratch_diversity.PLACE, MEASURES["accuracy"]]
    assert plots.render(found.figure, "png")


def test_seeds_have_initialisations_of_their_own():
    settings = Settings.of("smoke", starts=3)
    assert [[run.seed for run in scratch_diversity.runs(settings, seed)] for seed in (0, 1)] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.slow
def test_with_its_parts_made_the_whole_trains_only_the_network_itself(tiny, trainings):
    for part in scratch_diversity.parts_first("smoke", 0):
        scratch_diversity.make_first("smoke", 0, **part)
    assert scratch_diversity.parts_second("smoke", 0) == []
    done = len(trainings)
    settings = Settings.of("smoke")
    found = DIVERSITY.of(settings)
    assert len(trainings) == done + 1 > 6  # the zoo's, whose recipe the record tells
    assert set(found.values("accuracy")["initialisation"]) == {0, 1}
    assert ("tiny", 0) in found.read.networks and any("scratch-in-training" in name for name in found.read.tables)
    assert len(scratch_diversity.draw_matrices(settings, 0).axes[0].images) == 1


def test_learning_gates_does_not_disturb_the_training(tiny, monkeypatch):
    """A network that gates were learned on in between ends as one that was left alone, and starts are its seeds."""
    kept = {}
    learn = StartRun.gates

    def watched(run, name, model):
        kept[run.seed] = copy.deepcopy(state(model))
        return learn(run, name, model)

    monkeypatch.setattr(StartRun, "gates", watched)
    run = StartRun(Settings.of("smoke"), 1)
    assert list(dict.fromkeys(run.in_training("tiny")["epoch"])) == [1, 2]
    alone = run.fresh("tiny")
    training.fit(alone, run.train_images("tiny"), run.recipe("tiny"), seed=1, device="cpu")
    assert same(kept[1], state(alone))
    assert not list((tiny / "cache").rglob("*.pt"))


def test_gates_of_a_training_that_goes_on_are_of_the_same_epochs(tiny, monkeypatch):
    """Stopped after the last epoch's training: the next run learns gates on the networks of each epoch again."""
    learn, wanted, seen = StartRun.gates, {}, []

    def watched(run, name, model):
        wanted[len(wanted)] = copy.deepcopy(state(model))
        return learn(run, name, model)

    monkeypatch.setattr(StartRun, "gates", watched)
    run = StartRun(Settings.of("smoke"), 1)
    monkeypatch.setattr(run, "table", lambda kind, key, make: make())
    whole = run.in_training("tiny")

    def stopped(run, name, model):
        seen.append(copy.deepcopy(state(model)))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return learn(run, name, model)

    monkeypatch.setattr(StartRun, "gates", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.in_training("tiny")
    again = run.in_training("tiny")
    assert again.drop(columns="seconds").equals(whole.drop(columns="seconds"))
    assert same(seen[2], wanted[0]) and same(seen[3], wanted[1])
