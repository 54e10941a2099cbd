"""From tables of repaired networks to numbers, tables, texts and plots."""

import numpy as np
import pandas as pd
import pytest

from lib import plots, record
from lib.evaluations import frame
from lib.intervals import of_mean
from lib.lancet.study import backdoor_records as records
from lib.lancet.study import backdoor_texts as texts
from lib.lancet.study import draw_backdoors as draw
from lib.lancet.study.repairs import METHODS

SUCCESS = {"none": 1.0, "flip-stated": 0.1, "flip-tried": 0.02, "unlearn-matched": 0.3}
RECALL = {"flip-stated": 0.0, "flip-tried": 0.8}


def table_of(names=("regular-1", "regular-5", "scattered-1"), sets=("mnist", "gtsrb"), prefix="lancet"):
    rows = []
    for number, name in enumerate(sets):
        for place, trigger in enumerate(names):
            for known in (False, True):
                for method in METHODS:
                    success = SUCCESS.get(method, 0.5) + (0.01 * place if method != "none" else 0)
                    about = {"network": f"{prefix}-{name}-{trigger}", "set": name, "trigger": trigger}
                    about |= {"trigger_share": 0.02 * (place + 1), "reversed": known, "method": method}
                    told = {"accuracy": 0.9 - 0.1 * number - (0.05 if method == "flip-stated" else 0)}
                    told |= {"attack_success": success + (0.05 if known and method != "none" else 0)}
                    told |= {"target_recall": RECALL.get(method, 0.9), "stamped_accuracy": 0.4}
                    told |= {"natural_target_rate": 0.01, "n": 500, "n_target": 50, "known_success": 1.0, "note": ""}
                    layer = "conv" if method == "flip-stated" else "fc"
                    rows.append({**about, **told, "layer": layer, "changed": 5, "fraction": 0.01, "reached": True})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table():
    return table_of()


@pytest.fixture(scope="module")
def numbers(table):
    return records.backdoor_numbers({0: table})


def one(numbers, name, **where):
    found = frame(numbers, name, **where)
    assert len(found) == 1, found
    return found.iloc[0]


def test_every_network_has_its_measures_and_its_change(table, numbers):
    where = {"network": "lancet-gtsrb-regular-5", "method": "flip-stated", "reversed": True}
    row = table[(table["network"] == where["network"]) & (table["method"] == "flip-stated") & table["reversed"]].iloc[0]
    for name in ("accuracy", "attack_success", "target_recall", "stamped_accuracy", "natural_target_rate"):
        assert one(numbers, name, **where)["value"] == pytest.approx(row[name])
    assert one(numbers, "accuracy_change", **where)["value"] == pytest.approx(-0.05)
    counts = {name: one(numbers, name, **where)["n"] for name in ("accuracy", "attack_success", "target_recall")}
    assert counts == {"accuracy": 500, "attack_success": 450, "target_recall": 50}
    assert one(numbers, "changed", **where)["value"] == 0.01
    assert frame(numbers, "changed", method="tune").empty
    idle = records.network_numbers({0: table.assign(changed=0)})
    assert not [row for row in idle if row["name"] == "changed"]  # a ratio to nothing would say nothing


def test_networks_differ_in_one_setting_only_so_that_claims_can_pair_them(numbers):
    places = [set(number["where"]) for number in numbers if number["name"] == "attack_success"]
    assert all(place == {"network", "method", "reversed"} for place in places)


def test_means_worst_values_and_their_interval_are_over_networks(table, numbers):
    values = table[(table["method"] == "flip-tried") & table["reversed"]]["attack_success"]
    place = {"method": "flip-tried", "reversed": True}
    told = {
        s: one(numbers, "attack_success_over_networks", statistic=s, **place) for s in ("mean", "worst", "low", "high")
    }
    assert told["mean"]["value"] == pytest.approx(values.mean()) and told["mean"]["n"] == 6
    assert told["worst"]["value"] == pytest.approx(values.max())
    assert [told["low"]["value"], told["high"]["value"]] == pytest.approx(of_mean(values.tolist(), (0, 1)))
    worst = one(numbers, "accuracy_change_over_networks", statistic="worst", method="flip-stated", reversed=False)
    assert worst["value"] == pytest.approx(-0.05)


def test_stated_values_stand_beside_reversed_triggers_only(numbers):
    stated = {(n["name"], n["where"]["method"], n["where"]["statistic"]): (n["paper_value"], n["where"]["reversed"])
              for n in numbers if n["paper_value"] is not None}  # fmt: skip
    assert stated == {
        ("attack_success_over_networks", "none", "mean"): (1.0, True),
        ("attack_success_over_networks", "flip-stated", "mean"): (0.011, True),
        ("attack_success_over_networks", "unlearn-matched", "mean"): (0.36, True),
        ("accuracy_change_over_networks", "unlearn-matched", "mean"): (-0.02, True),
        ("accuracy_change_over_networks", "unlearn-matched", "worst"): (-0.041, True),
    }


def test_a_recall_without_images_is_left_out():
    table = table_of(sets=("mnist",))
    table["target_recall"] = table["target_recall"].astype(object)
    table.loc[table["trigger"] == "regular-1", "target_recall"] = None
    numbers = records.backdoor_numbers({0: table})
    assert "lancet-mnist-regular-1" not in set(frame(numbers, "target_recall")["network"])
    mean = one(numbers, "target_recall_over_networks", statistic="mean", method="none", reversed=False)
    assert mean["n"] == 2 and mean["value"] == pytest.approx(0.9)
    assert "nan" not in records.markdown(records.backdoor_table(numbers)).lower()


def test_tables_hold_numbers_of_the_record_only(numbers, table):
    sized = records.size_numbers({0: table})
    forms = {0: table_of(("trojannn-square", "trojannn-watermark"), ("orl-faces",))}
    troja = records.trojannn_numbers(forms)
    cases = [(numbers, records.backdoor_table(numbers)), (sized, records.size_table(sized)),
             (troja, records.network_table(troja))]  # fmt: skip
    for known, made in cases:
        held = {round(value, 12) for n in known for value in (n["value"], n["n"], *n["where"].values())
                if isinstance(value, (int, float))}  # fmt: skip
        cells = [cell for row in made.to_numpy().tolist() for cell in row if isinstance(cell, (int, float))]
        assert len(cells) > 20 and {round(cell, 12) for cell in cells} <= held
        assert record.dumps({"numbers": known})
    whole = records.backdoor_table(numbers)
    assert list(whole["network"].unique())[:2] == ["mean of 6", "worst of 6"]
    assert len(whole) == 2 * 2 * len(METHODS) + 6 * (1 + 2 * len(records.SHOWN))
    paper = {n["where"]["network"]: n["paper_value"] for n in troja if n["paper_value"] and n["name"] == "accuracy"}
    assert paper == {"lancet-orl-faces-trojannn-square": 0.9701, "lancet-orl-faces-trojannn-watermark": 0.9702}


def test_sizes_are_means_over_the_sets(table):
    sized = records.size_numbers({0: table})
    place = {"trigger": "scattered-1", "method": "none", "reversed": False, "statistic": "mean"}
    row = one(sized, "accuracy_over_networks", **place)
    assert row["value"] == pytest.approx(0.85) and row["n"] == 2 and row["size"] == 0.06
    assert row["kind"] == "transparent" == records.kind_of("scattered-3") != records.kind_of("regular-3")


def test_texts_say_what_the_rows_hold(table, numbers):
    frames = {0: table}
    rules = texts.rules_reading(frames)
    assert "deleted (recall below 0.1, from above 0.5) in 12 of 12 repairs, 0 of which" in " ".join(rules.split())
    assert "choose different layers in 12 of 12 repairs" in rules
    assert "flip, layers tried (ours) 0.080 against 0.030" in texts.triggers_reading(numbers)
    first = texts.methods_reading(numbers).splitlines()[1]
    assert first.startswith(f"- **{METHODS['flip-tried']}**: success 0.080")
    assert "gtsrb: 1.0 % before, success after flipping 8.0 %" in texts.floor_reading(frames)
    assert "for every network" in texts.failures_reading(frames)
    missed = table.assign(reached=table["network"] != "lancet-mnist-regular-1")
    assert "for 2 repairs: lancet-mnist-regular-1 (true trigger" in texts.failures_reading({0: missed})
    sized = records.size_numbers(frames)
    assert "transparent: 0.090 at 6.0 % of the image" in texts.size_reading(sized)
    assert texts.forms_reading(frames).count("reversed trigger known") == 6


def test_plots_show_every_network_and_draw_to_a_file(table, numbers):
    plots.style()
    figure, axes = plots.panels(3, height=4)
    draw.methods(axes, numbers)
    drawn = np.concatenate([line.get_xdata() for line in axes[0].get_lines() if line.get_marker() != "|"])
    assert sorted(drawn) == sorted(table["attack_success"]), "a point a network, method and trigger known"
    assert len(axes[0].get_lines()) == 2 * 2 * len(METHODS)
    assert [text.get_text() for text in axes[0].get_yticklabels()] == list(METHODS.values())
    assert len(plots.render(figure, "png")) > 5000
    figure, axes = plots.panels(3)
    draw.rules(axes, {0: table})
    assert len(axes[2].get_lines()) == 3 and len(plots.render(figure, "png")) > 5000
    figure, axes = plots.panels(4)
    draw.sizes(axes, records.size_numbers({0: table}))
    assert all(len(ax.get_lines()) == 6 for ax in axes) and len(plots.render(figure, "png")) > 5000
    assert any(len(bars.get_segments()) for bars in axes[0].collections), "intervals over the sets"
    figure, axes = plots.panels(4)
    draw.sizes(axes, records.size_numbers({0: table_of(sets=("mnist",))}))
    assert all(len(ax.get_lines()) == 6 for ax in axes), "with one set there is no interval, and still a plot"
    figure, axes = plots.panels(2)
    forms = table_of(("trojannn-square", "trojannn-watermark"), ("orl-faces",))
    draw.forms(axes, records.trojannn_numbers({0: forms}))
    assert [ax.get_title() for ax in axes] == ["square", "watermark"]
    assert len(plots.render(figure, "png")) > 5000
