"""From invented tables of the adaptive attack to numbers, texts and plots; and the study on tiny networks."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch import nn

from lib import plots, record
from lib.lancet.backdoors import named
from lib.lancet.study import adaptive, draw_adaptive
from lib.lancet.study import adaptive_records as records
from lib.lancet.study.repairs import Repaired


def table(seed: int = 0) -> pd.DataFrame:
    rows = []
    for role in ("adaptive", "badnets", "clean"):
        for known in (False, True):
            for place, method in enumerate(adaptive.METHODS if role != "clean" else ["none"]):
                done = method != "none"
                told = {"accuracy": 0.95 - 0.01 * place - 0.001 * seed, "attack_success": 0.0 if done else 0.99}
                told |= {"target_recall": 0.9, "stamped_accuracy": 0.5 * done, "natural_target_rate": 0.01}
                about: dict[str, Any] = {
                    "network": f"net-{role}",
                    "role": role,
                    "reversed": known,
                    "method": method,
                    "trigger": "t",
                }
                about |= {
                    "layer": "fc1" if done else "",
                    "changed": 10 * place,
                    "fraction": 0.01 * place,
                    "reached": done,
                }
                about |= {"touched": 0.3 if done else None, "n": 400, "n_target": 40, "note": "", "set": "mnist5k"}
                rows.append({**about, **told})
    return pd.DataFrame(rows)


def neurons(seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {"role": role, "layer": layer, "group": group, "lifted": (2.0 if group == "important" else 0.5) + seed, "n": 4}
        for role in ("adaptive", "badnets") for layer in ("conv2", "fc1") for group in ("important", "others")
    )  # fmt: skip


def classes(seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {"role": role, "class": k, "norm": 10.0 if k == 0 and role != "clean" else 40.0 + k, "success": 1.0, "n": 50,
         "index": 3.0 if k == 0 and role != "clean" else 0.5, "flagged": k == 0 and role != "clean"}
        for role in ("adaptive", "badnets", "clean") for k in range(6)
    )  # fmt: skip


@pytest.fixture(scope="module")
def numbers():
    return records.numbers(*({seed: make(seed) for seed in (0, 1)} for make in (table, neurons, classes)))


def only(numbers, name, **where):
    found = [n for n in numbers if n["name"] == name and {**n["where"], **where} == n["where"]]
    assert len(found) == 1, found
    return found[0]


def test_every_number_is_there_once_and_is_a_records(numbers):
    places = [(n["name"], tuple(sorted(n["where"].items()))) for n in numbers]
    assert len(places) == len(set(places)) and record.dumps({"numbers": numbers})


def test_the_stated_values_stand_beside_the_adaptive_attack_with_reversed_triggers_only(numbers):
    stated = {(n["name"], n["where"]["method"]): n["paper_value"] for n in numbers if n["paper_value"] is not None}
    assert stated == records.STATED
    assert all(
        n["where"]["role"] == "adaptive" and n["where"]["reversed"] for n in numbers if n["paper_value"] is not None
    )


def test_counts_and_changes(numbers):
    about = {"role": "adaptive", "reversed": True}
    success = only(numbers, "attack_success", method="none", **about)
    assert success["value"] == 0.99 and success["n"] == 360
    assert only(numbers, "accuracy_change", method="flip-tried", **about)["value"] == pytest.approx(-0.03)
    assert only(numbers, "touched", method="flip-tried", **about)["n"] == 30
    assert only(numbers, "lifted", role="badnets", layer="fc1", group="important")["per_seed"] == [2.0, 3.0]
    assert only(numbers, "anomaly_index", role="adaptive")["value"] == 3.0
    assert only(numbers, "norm", role="clean")["value"] == 40.0
    assert only(numbers, "classes_flagged", role="badnets")["value"] == 0.0


def test_the_texts_say_what_the_numbers_are(numbers):
    text = records.repair_reading(numbers)
    assert "**adaptive attack** (success 0.990 before repair)" in text
    assert "with the reversed trigger success 0.000, accuracy -3.0 points, target recall 0.90" in text
    text = records.neuron_reading(numbers, 0.1)
    assert "`fc1`: the trigger moves the important neurons by adaptive attack +2.5 (other neurons +1.0)" in text
    assert "30 % belong to the 10 % most important neurons" in text
    text = records.cleanse_reading(numbers)
    assert "10.0 pixels, anomaly index 3.0 (above 2)" in text and "anomaly index 0.5 (not above 2)" in text


def test_the_table_has_a_row_before_repair_and_one_a_method_and_trigger(numbers):
    laid = records.layout(numbers)
    assert len(laid) == 2 * (1 + 4 * 2) + 1 and list(laid["network"])[-1] == "clean network"
    held = {round(n["value"], 9) for n in numbers}
    cells = [cell for row in laid.to_numpy().tolist() for cell in row if isinstance(cell, float)]
    assert len(cells) > 80 and {round(cell, 9) for cell in cells} <= held


def test_plots_draw_to_a_file(numbers):
    plots.style()
    trigger = named("regular-2", (1, 28, 28))
    drawn = {
        2: lambda axes: draw_adaptive.lifted(axes, numbers),
        3: lambda axes: (draw_adaptive.repairs(axes, numbers), draw_adaptive.norms(axes, {0: classes()})),
        5: lambda axes: draw_adaptive.triggers(axes, trigger, trigger, torch.rand(1, 28, 28)),
    }
    for count, make in drawn.items():
        figure, axes = plots.panels(count, height=2.5)
        make(axes)
        assert len(plots.render(figure, "png")) > 3000
        plt.close(figure)


def test_touched_counts_flipped_weights_by_their_output_neuron(monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    changed = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    changed.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed[1].weight[0, :3] *= -1
        changed[1].weight[4, 1] *= -1
    monkeypatch.setattr(adaptive.attacks, "important", lambda *_: torch.tensor([0]))
    images, labels = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    for layer, wanted in (("1", 0.75), ("3", None), ("", None)):
        assert adaptive._touched(model, Repaired("flip-tried", changed, layer), images, labels, 0.2) == wanted
    assert adaptive._touched(model, Repaired("flip-tried", model, "1"), images, labels, 0.2) is None


def test_a_search_over_all_classes_is_made_at_the_seeds_that_the_scale_says(monkeypatch):
    asked = {"cleanse_seeds": None}
    monkeypatch.setattr(adaptive, "settings", lambda scale: asked)
    assert adaptive.cleanse_seeds("smoke", [0, 1, 2]) == [0, 1, 2]
    asked["cleanse_seeds"] = [0, 2]
    assert adaptive.cleanse_seeds("smoke", [0, 1, 2]) == [0, 2]
    assert adaptive.cleanse_seeds("smoke", [1, 3]) == [1], "a notebook run at other seeds still shows one"
