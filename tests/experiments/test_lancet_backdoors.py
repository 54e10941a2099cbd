"""From rows of repaired networks to numbers, tables and figures."""

import numpy as np
import pandas as pd
import pytest

from lib import plots, record
from lib.experiments import lancet_backdoors as backdoors
from lib.experiments import lancet_trojannn as trojannn
from lib.experiments.item import markdown
from lib.experiments.lancet_repairs import METHODS
from lib.intervals import of_mean

SUCCESS = {"none": 1.0, "flip-stated": 0.1, "flip-tried": 0.02, "unlearn-matched": 0.3}
RECALL = {"flip-stated": 0.0, "flip-tried": 0.8}


def table_of(names=("regular-1", "regular-5", "scattered-1"), sets=("mnist", "gtsrb"), prefix="lancet-{}"):
    rows = []
    for number, name in enumerate(sets):
        for place, trigger in enumerate(names):
            for known in (False, True):
                for method in METHODS:
                    success = SUCCESS.get(method, 0.5) + (0.01 * place if method != "none" else 0)
                    about = {"network": f"{prefix.format(name)}-{trigger}", "set": name, "trigger": trigger}
                    about |= {"trigger_share": 0.02 * (place + 1), "reversed": known, "method": method}
                    told = {"accuracy": 0.9 - 0.1 * number - (0.05 if method == "flip-stated" else 0)}
                    told |= {"attack_success": success + (0.05 if known and method != "none" else 0)}
                    told |= {"accuracy_change": told["accuracy"] - 0.9 + 0.1 * number}
                    told |= {"target_recall": RECALL.get(method, 0.9), "stamped_accuracy": 0.4}
                    told |= {"natural_target_rate": 0.01, "n": 500, "n_target": 50, "known_success": 1.0, "note": ""}
                    layer = "conv" if method == "flip-stated" else "fc"
                    rows.append({**about, **told, "layer": layer, "changed": 5, "fraction": 0.01, "reached": True})
    return pd.DataFrame(rows)


@pytest.fixture
def results_of(monkeypatch):
    """What an item makes of rows as `RepairRun.repaired` gives them."""

    def made(item, table):
        for module in (backdoors, trojannn):
            monkeypatch.setattr(module, "tables", lambda run, kinds=None: table)
        settings = (trojannn if item is trojannn.TROJANNN else backdoors).Settings.of("smoke", seeds=[0])
        return item.of(settings)

    return made


@pytest.fixture
def removal(results_of):
    return results_of(backdoors.BACKDOORS, table_of())


def one(results, name, **where):
    found = results.values(name, **where)
    assert len(found) == 1, found
    return found.iloc[0]


def test_every_network_has_its_measures_and_its_change(removal, results_of):
    table, where = table_of(), {"network": "lancet-gtsrb-regular-5", "method": "flip-stated", "reversed": True}
    row = table[(table["network"] == where["network"]) & (table["method"] == "flip-stated") & table["reversed"]].iloc[0]
    for name in backdoors.LABELS:
        assert one(removal, name, **where)["value"] == pytest.approx(row[name])
    counts = {name: one(removal, name, **where)["n"] for name in ("accuracy", "attack_success", "target_recall")}
    assert counts == {"accuracy": 500, "attack_success": 450, "target_recall": 50}
    assert one(removal, "changed", **where)["value"] == 0.01
    assert removal.values("changed", method="tune").empty
    idle = results_of(backdoors.BACKDOORS, table.assign(changed=0))
    assert idle.values("changed").empty  # a ratio to nothing would say nothing


def test_networks_differ_in_one_setting_only_so_that_claims_can_pair_them(removal):
    places = [set(number["where"]) for number in removal.numbers if number["name"] == "attack_success"]
    assert all(place == {"network", "method", "reversed"} for place in places)


def test_means_worst_values_and_their_interval_are_over_networks(removal):
    table = table_of()
    values = table[(table["method"] == "flip-tried") & table["reversed"]]["attack_success"]
    place, name = {"method": "flip-tried", "reversed": True}, "attack_success_over_networks"
    told = {s: one(removal, name, statistic=s, **place) for s in ("mean", "worst", "low", "high")}
    assert told["mean"]["value"] == pytest.approx(values.mean()) and told["mean"]["n"] == 6
    assert told["worst"]["value"] == pytest.approx(values.max())
    assert [told["low"]["value"], told["high"]["value"]] == pytest.approx(of_mean(values.tolist(), (0, 1)))
    place = {"method": "flip-stated", "reversed": False, "statistic": "worst"}
    assert one(removal, "accuracy_change_over_networks", **place)["value"] == pytest.approx(-0.05)


def test_the_source_s_values_stand_beside_reversed_triggers_only(removal):
    stated = [number["where"] for number in removal.numbers if number["paper_value"] is not None]
    assert len(stated) == len(backdoors.STATED) and all(where["reversed"] for where in stated)


def test_a_recall_without_images_is_left_out(results_of):
    table = table_of(sets=("mnist",))
    table["target_recall"] = table["target_recall"].astype(object)
    table.loc[table["trigger"] == "regular-1", "target_recall"] = None
    removal = results_of(backdoors.BACKDOORS, table)
    assert "lancet-mnist-regular-1" not in set(removal.values("target_recall")["network"])
    mean = one(removal, "target_recall_over_networks", statistic="mean", method="none", reversed=False)
    assert mean["n"] == 2 and mean["value"] == pytest.approx(0.9)
    assert "nan" not in markdown(removal.table).lower()


def test_tables_hold_numbers_of_the_record_only(removal, results_of):
    sizes = results_of(backdoors.SIZES, table_of())
    forms = table_of(("square", "watermark"), ("orl-faces",), "lancet-trojannn")
    both = results_of(trojannn.TROJANNN, forms)
    for results in (removal, sizes, both):
        held = {round(value, 12) for n in results.numbers for value in (n["value"], n["n"], *n["where"].values())
                if isinstance(value, (int, float))}  # fmt: skip
        cells = [cell for row in results.table.to_numpy().tolist() for cell in row if isinstance(cell, (int, float))]
        assert len(cells) > 20 and {round(cell, 12) for cell in cells} <= held
        assert record.dumps({"numbers": results.numbers})
    assert list(removal.table["network"].unique())[:2] == ["mean of 6", "worst of 6"]
    assert len(removal.table) == 2 * 2 * len(METHODS) + 6 * (1 + 2 * len(backdoors.SHOWN))
    paper = {n["where"]["network"]: n["paper_value"] for n in both.numbers if n["paper_value"]}
    assert paper == {"lancet-trojannn-square": 0.9701, "lancet-trojannn-watermark": 0.9702}


def test_sizes_are_means_over_the_sets(results_of):
    sizes = results_of(backdoors.SIZES, table_of())
    place = {"trigger": "scattered-1", "method": "none", "reversed": False, "statistic": "mean"}
    row = one(sizes, "accuracy_over_networks", **place)
    assert row["value"] == pytest.approx(0.85) and row["n"] == 2 and row["size"] == 0.06
    assert row["kind"] == "transparent" == backdoors.kind_of("scattered-3") != backdoors.kind_of("regular-3")


def test_figures_show_every_network(removal, results_of):
    plots.style()
    axes = removal.figure.axes
    drawn = np.concatenate([line.get_xdata() for line in axes[0].get_lines() if line.get_marker() != "|"])
    assert sorted(drawn) == sorted(table_of()["attack_success"]), "a point a network, method and trigger known"
    assert [text.get_text() for text in axes[0].get_yticklabels()] == list(METHODS.values())
    sizes = results_of(backdoors.SIZES, table_of())
    assert all(len(ax.get_lines()) == len(backdoors.SIZED) for ax in sizes.figure.axes)
    assert any(len(bars.get_segments()) for bars in sizes.figure.axes[0].collections), "intervals over the sets"
    single = results_of(backdoors.SIZES, table_of(sets=("mnist",)))
    assert all(len(ax.get_lines()) == len(backdoors.SIZED) for ax in single.figure.axes), "one set has no interval"
    forms = results_of(trojannn.TROJANNN, table_of(("square", "watermark"), ("orl-faces",), "lancet-trojannn"))
    assert [ax.get_title() for ax in forms.figure.axes] == ["square", "watermark"]
