"""From rows of repaired networks to numbers, tables and figures."""

import numpy as np
import pandas as pd
import pytest

from lib import plots, record
from lib.experiments import lancet_backdoors as backdoors
from lib.experiments import lancet_figures
from lib.experiments import lancet_trojannn as trojannn
from lib.experiments import lancet_widths as widths
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
    assert len(removal.table) == 2 * 2 * len(METHODS) + 6 * (1 + 2 * len(backdoors.LISTED))
    paper = {n["where"]["network"]: n["paper_value"] for n in both.numbers if n["paper_value"]}
    assert paper == {"lancet-trojannn-square": 0.9701, "lancet-trojannn-watermark": 0.9702}


def test_sizes_are_means_over_the_sets(results_of):
    sizes = results_of(backdoors.SIZES, table_of())
    place = {"trigger": "scattered-1", "method": "none", "reversed": False, "statistic": "mean"}
    row = one(sizes, "accuracy_over_networks", **place)
    assert row["value"] == pytest.approx(0.85) and row["n"] == 2 and row["size"] == 0.06
    assert row["kind"] == "transparent" == backdoors.kind_of("scattered-3") != backdoors.kind_of("regular-3")


def test_widths_are_those_of_the_recipes(monkeypatch):
    names = ["backdoor-width-mnist-8", "backdoor-width-mnist-16"]
    table = pd.concat(
        [
            table_of(("regular-2",), ("mnist5k",)).assign(network=name, accuracy_change=-0.1 / (1 + k))
            for k, name in enumerate(names)
        ]
    )
    monkeypatch.setattr(widths, "tables", lambda run: table)
    found = widths.WIDTHS.of(widths.Settings.of("smoke", seeds=[0]))
    rows = found.values("accuracy_change", method="flip-stated", reversed=True).set_index("width")["value"]
    assert rows.to_dict() == {8: -0.1, 16: -0.05}
    assert list(found.table["width"].unique()) == [8, 16]
    assert [list(ax.get_lines()[0].get_xdata()) for ax in found.figure.axes] == [[8, 16], [8, 16]]


def drawn(ax, marker):
    """What a panel shows by one marker, as (x, y)."""
    found = [line.get_xydata() for line in ax.get_lines() if line.get_marker() == marker]
    return np.concatenate(found) if found else np.empty((0, 2))


def ends(ax):
    """Both ends of every interval of a panel."""
    return np.concatenate([segment for bars in ax.collections for segment in bars.get_segments()])


def test_the_figure_shows_every_network_and_the_source_s_means(removal):
    plots.style()
    axes, groups = removal.figure.axes, list(lancet_figures.GROUPS.values())
    assert sorted(method for group in groups for method in group) == sorted(METHODS)
    table = table_of()
    for row, group in zip((axes[:3], axes[3:]), groups, strict=True):
        assert len(row[0].get_yticklabels()) == len(group)
        here = table[table["method"].isin(group)]
        for ax, name in zip(row, lancet_figures.PANELS, strict=True):
            assert sorted(drawn(ax, ".")[:, 0]) == sorted(here[name]), "a point a network, method and trigger known"
    stars = [drawn(ax, "*")[:, 0] for ax in axes]
    assert [sorted(found[~np.isnan(found)]) for found in stars] == [[0.011, 0.36, 1.0], [-0.02], [], [], [], []]
    heights = dict(drawn(axes[0], "*")[~np.isnan(stars[0])])
    assert round(heights[0.011]) == groups[0].index("flip-stated"), "a star is in its method's row"
    shares = np.concatenate([ends(axes[k]) for k in (0, 2, 3, 5)])[:, 0]
    assert len(shares) and shares.min() >= 0 and shares.max() <= 1


def test_sizes_are_drawn_by_method_and_kind_with_intervals_over_the_sets(results_of):
    sizes = results_of(backdoors.SIZES, table_of())
    axes = sizes.figure.axes
    assert len(axes) == 2 * len(backdoors.SIZED)
    lines = [len(drawn(ax, marker)) for ax in axes for marker in plots.MARKERS[:2]]
    assert lines == [2, 2, 1, 1] * len(backdoors.SIZED), "regular-1 and -5, scattered-1; either trigger known"
    heights = np.concatenate([ends(ax) for ax in axes])[:, 1]
    assert heights.min() >= 0 and heights.max() <= 1
    single = results_of(backdoors.SIZES, table_of(sets=("mnist",)))
    assert len(single.figure.axes) == len(axes), "one set has no interval"
    regular = results_of(backdoors.SIZES, table_of(names=("regular-1",)))
    assert len(regular.figure.axes) == len(backdoors.SIZED)


def test_trojannn_has_a_panel_a_network_and_measure(results_of):
    forms = results_of(trojannn.TROJANNN, table_of(("square", "watermark"), ("orl-faces",), "lancet-trojannn"))
    axes = forms.figure.axes
    assert [len(drawn(ax, marker)) for ax in axes for marker in plots.MARKERS[:2]] == [len(METHODS)] * 8
    stars = [drawn(ax, "*") for ax in axes]
    told = [found[~np.isnan(found[:, 0]), 0].tolist() for found in stars]
    assert told == [[0.0], [0.9701], [0.0], [0.9702]]
