"""Where errors are located: the map of votes keeps only weights that have any, and is whole again when it is read."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib.experiments import lancet_localisation
from lib.experiments.run import Run


def test_the_map_of_votes_is_whole_again():
    kept = pd.DataFrame(
        [["net", "fc", 0, 2, 0.5], ["net", "fc", 1, 0, 1.0], ["net", "fc", 2, 3, 0.0]],
        columns=["network", "layer", "output", "input", "votes"],
    )
    whole = lancet_localisation.every_place(kept)
    grid = whole.pivot(index="output", columns="input", values="votes").to_numpy()
    assert grid.tolist() == [[0, 0, 0.5, 0], [1.0, 0, 0, 0], [0, 0, 0, 0]]
    assert set(whole["network"]) == {"net"} and set(whole["layer"]) == {"fc"}


@pytest.mark.parametrize(
    ("share", "text"), [(np.nan, ""), (1.0, "100"), (0.0996, "10"), (0.094, "9.4"), (0.0004, ".04")]
)
def test_shares_in_cells_are_short(share, text):
    assert lancet_localisation.per_cent(share) == text


@pytest.mark.parametrize("sizes", [[4], [4, 8, 8, 21, 14, 14, 7, 7], [60, 1, 1], [20] * 30])
def test_heat_maps_stand_in_columns_in_order(sizes):
    columns = lancet_localisation.columns_of(sizes)
    assert [place for column in columns for place in column] == list(range(len(sizes))) and all(columns)
    if len(sizes) == 8:
        assert columns == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_figure_is_a_heat_map_a_network(monkeypatch):
    names, layers = ["lancet-mnist-regular-1", "lancet-mnist-regular-2"], ["conv1", "conv2", "fc"]

    def measure(settings, seed):
        rows = []
        for network in names:
            for variant in lancet_localisation.VARIANTS:
                for depth, layer in enumerate(layers):
                    at = {"network": network, "variant": variant, "layer": layer, "depth": depth, "n": 10}
                    rows.append({"measure": "repaired", "value": 0.5 * depth, **at})
                    if depth:  # the first layer repairs no pair
                        rows.append({"measure": "fraction", "value": 0.01 * depth, **at})
        return Run(settings, seed).tidy(rows)

    item = replace(lancet_localisation.LOCALISATION, measure=measure, table=None)
    settings = lancet_localisation.Settings.of("smoke", seeds=[0], networks=names)
    *maps, bar = item.of(settings).figure.axes
    assert [ax.get_title() for ax in maps] == ["mnist-regular-1", "mnist-regular-2"]
    for ax in maps:
        assert [text.get_text() for text in ax.get_yticklabels()] == layers
        assert ax.collections[0].get_array().reshape(3, 4).tolist() == [[0.0] * 4, [0.5] * 4, [1.0] * 4]
        assert [text.get_text() for text in ax.texts] == [""] * 4 + ["1.0"] * 4 + ["2.0"] * 4
    assert len(maps[-1].get_xticklabels()) == 4 and bar.get_xlim() == (0, 1)
