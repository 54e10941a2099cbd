"""From invented tables of the adaptive attack to numbers, table and figure."""

import pandas as pd
import pytest
import torch
from torch import nn

from lib import record
from lib.experiments import lancet_adaptive as adaptive
from lib.experiments.lancet_repairs import FLIPS, Repaired
from lib.lancet.errors import LancetError
from lib.lancet.measures import NAMES


def repaired(run, name, known):
    rows = []
    for place, method in enumerate(("none", *FLIPS)):
        done = method != "none"
        about = [method, "fc1" if done else "", 10 * place, 0.01 * place, done, 0.3 if done else None]
        values = {"accuracy": 0.95 - 0.01 * place - 0.001 * run.seed, "attack_success": 0.0 if done else 0.99}
        values |= {"target_recall": 0.9, "stamped_accuracy": 0.5 * done, "natural_target_rate": 0.01}
        rows.append([*about, *(values[each] for each in NAMES), 400, 40, ""])
    return pd.DataFrame(rows, columns=adaptive.COLUMNS)


def lifted(run, name):
    rows = [
        [layer, group, (2.0 if group == "important" else 0.5) + run.seed, 4]
        for layer in ("conv2", "fc1")
        for group in ("important", "others")
    ]
    return pd.DataFrame(rows, columns=["layer", "group", "lifted", "n"])


def every_class(run, name):
    small = "clean" not in name
    rows = [[k, 10.0 if k == 0 and small else 40.0 + k, 1.0, 50, 3.0 if k == 0 and small else 0.5] for k in range(6)]
    table = pd.DataFrame(rows, columns=["class", "norm", "success", "n", "index"])
    return table.assign(flagged=table["index"] > 2)


@pytest.fixture
def results(monkeypatch):
    for function in (repaired, lifted, every_class):
        monkeypatch.setattr(adaptive.AdaptiveRun, function.__name__, function)
    monkeypatch.setattr(adaptive.AdaptiveRun, "clean", lambda run: repaired(run, "clean", False)[:1])
    monkeypatch.setattr(
        adaptive.AdaptiveRun, "attack", lambda run, name: type("Attack", (), {"target": 0, "trigger": None})
    )
    return adaptive.ADAPTIVE.of(adaptive.Settings.of("smoke", seeds=[0, 1]))


def only(results, name, **where):
    found = results.values(name, **where)
    assert len(found) == 1, found
    return found.iloc[0]


def test_every_number_is_there_once_and_is_a_records(results):
    places = [(n["name"], tuple(sorted(n["where"].items()))) for n in results.numbers]
    assert len(places) == len(set(places)) and record.dumps({"numbers": results.numbers})


def test_the_source_s_values_stand_beside_the_adaptive_attack_with_reversed_triggers_only(results):
    stated = [number["where"] for number in results.numbers if number["paper_value"] is not None]
    assert len(stated) == len(adaptive.STATED)
    assert all(where["role"] == "adaptive" and where["reversed"] for where in stated)


def test_counts_and_changes(results):
    about = {"role": "adaptive", "reversed": True}
    success = only(results, "attack_success", method="none", **about)
    assert success["value"] == 0.99 and success["n"] == 360
    assert only(results, "accuracy_change", method="flip-tried", **about)["value"] == pytest.approx(-0.03)
    assert only(results, "touched", method="flip-tried", **about)["n"] == 30
    lifted = only(results, "lifted", role="badnets", layer="fc1", group="important")
    assert lifted["per_seed"] == {0: 2.0, 1: 3.0}
    assert only(results, "anomaly_index", role="adaptive")["value"] == 3.0
    assert only(results, "norm", role="clean")["value"] == 40.0
    assert only(results, "classes_flagged", role="badnets")["value"] == 0.0
    assert len(results.rows("class")) == 2 * 3 * 6


def test_the_table_has_a_row_before_repair_and_one_a_method_and_trigger(results):
    table = results.table
    assert len(table) == 2 * (1 + 4 * 2) + 1 and list(table["network"])[-1] == "clean network"
    held = {round(n["value"], 9) for n in results.numbers}
    cells = [cell for row in table.to_numpy().tolist() for cell in row if isinstance(cell, float)]
    assert len(cells) > 80 and {round(cell, 9) for cell in cells} <= held
    assert [ax.get_title() for ax in results.figure.axes] == list(adaptive.PANELS.values())


def test_touched_counts_flipped_weights_by_their_output_neuron(monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    changed = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    changed.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed[1].weight[0, :3] *= -1
        changed[1].weight[4, 1] *= -1
    monkeypatch.setattr(adaptive.adaptive, "important", lambda *_: torch.tensor([0]))
    images, labels = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    for layer, wanted in (("1", 0.75), ("3", None), ("", None)):
        assert adaptive.touched_share(model, Repaired("flip-tried", changed, layer), images, labels, 0.2) == wanted
    assert adaptive.touched_share(model, Repaired("flip-tried", model, "1"), images, labels, 0.2) is None


def test_stamps_are_searched_for_all_classes_at_the_seeds_that_the_scale_names():
    def searched(seeds, cleanse_seeds=None):
        return adaptive.Settings.of("smoke", seeds=seeds, cleanse_seeds=cleanse_seeds).searched()

    assert searched([0, 1, 2]) == [0, 1, 2] and searched([0, 1, 2], [0, 2]) == [0, 2]
    assert searched([1, 3], [0, 2]) == [1], "a notebook run at other seeds still shows one"


def test_an_attack_without_a_clean_network_to_start_from_is_refused():
    with pytest.raises(LancetError, match="has no `start`"):
        adaptive.Settings.of("smoke", network="lancet-mnist-regular-2").networks()
