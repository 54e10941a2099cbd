"""lib.zoo: networks that ship with the results, and --retrain, which makes everything anew."""

import shutil
import warnings

import pytest
from training_tools import TINY, same, state, write_config
from zoo_tools import SMOKE, flip, reconfigure, rewritten

from lib import config, zoo

pytestmark = pytest.mark.usefixtures("house")


@pytest.fixture
def shipped(house):
    """plain and half trained with two seeds, shipped with the results, and gone from the cache."""
    content = {**SMOKE, "ship": ["pl*"], "study": {"robustness": {"seeds": [0], "spectra": {"seeds": [1]}}}}
    write_config(house / "config", smoke=content)
    config.scale._load.cache_clear()
    for name in ("plain", "half"):
        for seed in (0, 1):
            zoo.get(name, seed=seed)
    zoo.get("plain", seed=2)  # no study has that seed
    written = zoo.ship("smoke")
    place = house / "results" / "smoke" / "networks"
    assert sorted(written) == sorted(place.iterdir())
    shutil.rmtree(house / "cache")
    return place


def test_what_is_shipped(shipped):
    """Every card, so that the figures can be traced; the weights that the configuration names, of the first seed."""
    cards = [f"{name}-seed{seed}.json" for name in ("half", "plain") for seed in (0, 1)]
    assert sorted(path.name for path in shipped.iterdir()) == sorted([*cards, "plain-seed0.safetensors"])


def test_a_shipped_network_is_loaded_and_retrain_ignores_it(house, shipped, trainings):
    rewritten(shipped / "plain-seed0.json", seconds=1234.5)
    trainings.clear()
    wanted = state(zoo.get("plain"))
    assert zoo.card("plain")["seconds"] == 1234.5
    assert zoo.card("half", seed=1)["test_accuracy"] > 0  # a card needs no weights
    assert not trainings and not (house / "cache").exists()
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}
    assert same(state(zoo.get("plain", retrain=True)), wanted)
    assert trainings == [(3, 0)]
    assert zoo.card("plain")["seconds"] != 1234.5  # what was retrained comes first from now on
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before
    zoo.get("half")
    assert trainings == [(3, 0), (3, 0)]  # shipped without its weights


def test_a_shipped_network_of_another_recipe_or_damaged_is_not_used(house, shipped, trainings):
    flip(shipped / "plain-seed0.safetensors")
    trainings.clear()
    with pytest.warns(UserWarning, match=f"{shipped}/plain-seed0.safetensors is damaged: it does not match its card"):
        zoo.get("plain")
    reconfigure(house, plain={**TINY, "epochs": 2})
    zoo.get("plain")
    assert trainings == [(3, 0), (2, 0)]


def test_networks_that_are_too_large_are_not_shipped(house, monkeypatch):
    write_config(house / "config", smoke={**SMOKE, "ship": ["pl*"], "study": {"robustness": {"seeds": [0]}}})
    zoo.get("plain")
    monkeypatch.setattr(zoo, "SHIPPED_MB", 0.001)
    with pytest.raises(zoo.ZooError, match=r"plain: weights of 0\.0 MB.* 0\.001 MB"):
        zoo.ship("smoke")


def test_retrain_trains_parents_trunks_and_checkpoints_anew_too(house, trainings):
    made = zoo.train_family("smoke", "pruned", 0)
    done = len(trainings)
    (trunk,) = (config.cache_dir("smoke") / "networks").glob("*/epoch1.pt")
    trunk.write_bytes(b"not to be read")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert zoo.train_family("smoke", "pruned", 0, retrain=True) == made
    assert trainings[done:] == trainings[:done] == [(1, 0), (3, 0), (3, 1), (3, 1)]
