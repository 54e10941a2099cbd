"""How the explorer's notebook stands in the graph: trained networks before it, no record, no item."""

import pytest
import torch
import yaml

from lib import config, engine, zoo
from lib.explore.network import on_disk

NOTEBOOK = "00_explore"


@pytest.mark.parametrize("scale", config.SCALES)
def test_the_notebook_waits_for_the_networks_that_it_shows(scale):
    preset = config.load(scale)
    assert engine.notebooks()[NOTEBOOK] == []
    assert engine.families(preset, NOTEBOOK) == ["nnslicer-resnet10", "dynamic-resnet"]
    nodes = engine.nodes(preset, [NOTEBOOK])
    assert {node.family for node in nodes} == {"nnslicer-resnet10", "dynamic-resnet"}
    assert [node.seed for node in nodes] == [0, 0], "one seed is enough to play with"


def test_notebooks_that_read_records_come_last():
    names = list(engine.notebooks())
    assert (names[0], names[-1]) == (NOTEBOOK, "90_claims")


def test_a_slip_in_the_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_CONFIG", str(tmp_path))
    assert config.notebooks() == {}
    (tmp_path / "notebooks.yaml").write_text(yaml.safe_dump({"00_explore": {"family": ["a"]}}))
    with pytest.raises(config.ConfigError, match=r"notebooks\.yaml: 00_explore: unknown key 'family'; one of families"):
        config.notebooks()


def test_a_network_is_there_once_it_is_trained(house):
    assert not zoo.kept("plain")
    state = torch.random.get_rng_state()
    zoo.get("plain")
    assert zoo.kept("plain") and not zoo.kept("plain", seed=1)
    assert on_disk("plain", "smoke", 0) and not on_disk("plain", "smoke", 1) and not on_disk("plai", "smoke", 0)
    next((config.cache_dir("smoke") / "networks").glob("plain-*/weights.safetensors")).unlink()
    assert not zoo.kept("plain") and not on_disk("plain", "smoke", 0)
    assert torch.equal(state, torch.random.get_rng_state())
