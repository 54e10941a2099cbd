"""The section on the method shows networks whose weights are here."""

import shutil

import pytest
import zoo_tools
from training_tools import write_config

from lib import config, notebook, zoo


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Two scales with the same networks, the larger one for longer."""
    longer = {name: {**recipe, "epochs": 3} for name, recipe in zoo_tools.SMOKE["networks"].items() if name == "plain"}
    write_config(tmp_path / "config", smoke=zoo_tools.SMOKE, cpu={**zoo_tools.SMOKE, "networks": longer})
    for name, place in {"NEURONS_CONFIG": "config", "NEURONS_CACHE": "cache", "NEURONS_RESULTS": "results"}.items():
        monkeypatch.setenv(name, str(tmp_path / place))
    config.scale._load.cache_clear()
    yield tmp_path
    config.scale._load.cache_clear()


def test_a_smaller_scale_stands_in_where_the_weights_stayed_elsewhere(house, capsys):
    assert notebook.live("cpu", "plain") == "cpu"  # none is here: it is trained, as it always was
    zoo.get("plain", "smoke")
    assert notebook.live("cpu", "plain") == "smoke"
    assert "scale smoke" in capsys.readouterr().out
    assert notebook.live("cpu", "plain", seed=1) == "cpu"  # of that seed there is none
    assert notebook.live("cpu", "half") == "cpu"  # a network that the smaller scale has, too, but not here
    zoo.get("plain", "cpu")
    assert notebook.live("cpu", "plain") == "cpu" and not capsys.readouterr().out
    shutil.rmtree(config.cache_dir("cpu"))
    assert notebook.live("cpu", "plain") == "smoke"
    assert notebook.live("smoke", "plain") == "smoke"
