"""Where errors are located: the map of votes keeps only weights that have any, and is whole again when it is read."""

import pandas as pd

from lib.experiments import lancet_localisation


def test_the_map_of_votes_is_whole_again():
    kept = pd.DataFrame(
        [["net", "fc", 0, 2, 0.5], ["net", "fc", 1, 0, 1.0], ["net", "fc", 2, 3, 0.0]],
        columns=["network", "layer", "output", "input", "votes"],
    )
    whole = lancet_localisation.every_place(kept)
    grid = whole.pivot(index="output", columns="input", values="votes").to_numpy()
    assert grid.tolist() == [[0, 0, 0.5, 0], [1.0, 0, 0, 0], [0, 0, 0, 0]]
    assert set(whole["network"]) == {"net"} and set(whole["layer"]) == {"fc"}
