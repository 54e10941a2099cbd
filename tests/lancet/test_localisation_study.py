"""The study of localisation: the map of votes keeps only weights that have any, and is whole again when it is read."""

import pandas as pd

from lib.lancet.study import draw_localisation, localisation, localisation_records


def test_the_map_of_votes_is_whole_again():
    kept = pd.DataFrame(
        [["net", "fc", 0, 2, 0.5], ["net", "fc", 1, 0, 1.0], ["net", "fc", 2, 3, 0.0]],
        columns=["network", "layer", "output", "input", "votes"],
    )
    whole = localisation._every_place(kept)
    grid = whole.pivot(index="output", columns="input", values="votes").to_numpy()
    assert grid.tolist() == [[0, 0, 0.5, 0], [1.0, 0, 0, 0], [0, 0, 0, 0]]
    assert set(whole["network"]) == {"net"} and set(whole["layer"]) == {"fc"}


def test_the_overview_has_a_pair_of_panels_for_each_network():
    variants = list(localisation_records.NAMES)
    numbers = [
        {
            "name": name,
            "value": 0.5,
            "unit": "share",
            "n": 10,
            "seeds": [0],
            "per_seed": [0.5],
            "ci95": None,
            "paper_value": None,
            "note": "",
            "where": {"network": network, "variant": variant, "layer": f"conv{depth}", "depth": depth},
        }
        for network in ("net-a", "net-b", "net-c")
        for name in ("repaired", "fraction")
        for variant in variants
        for depth in range(3)
    ]
    figure = draw_localisation.overview(numbers, ["net-a", "net-b", "net-c"], columns=2)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 6 and all(len(ax.get_lines()) == len(variants) for ax in shown)
    assert [ax.get_title() for ax in shown if ax.get_title()] == ["net-a", "net-b", "net-c"]
