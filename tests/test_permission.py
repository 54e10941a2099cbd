"""Nothing long is trained because a notebook was opened, and nothing that is kept is made anew."""

import json
import os
import shutil
import sys

import pandas as pd
import pytest
from training_tools import TINY, write_config
from zoo_tools import SMOKE, rewritten

from lib import cache, config, evaluations, permission, zoo

pytestmark = pytest.mark.usefixtures("house", "unasked")
NET = {**TINY, "family": "plain"}
SLOW = {"images_per_second": {"plain": 0.5}}  # 60 images, 3 epochs: 6 minutes


@pytest.fixture
def unasked(monkeypatch):
    """A process that nobody has asked to train, and that has not trained yet."""
    monkeypatch.delenv("NEURONS_TRAIN", raising=False)
    monkeypatch.setattr(permission, "_spent", 0.0)
    monkeypatch.setattr(zoo, "changed", [])


def configure(house, estimate, **networks):
    write_config(house / "config", smoke={**SMOKE, "estimate": estimate, "networks": {"plain": NET, **networks}})
    config.scale._load.cache_clear()


def test_what_takes_long_is_refused_before_anything_is_done(house, trainings):
    configure(house, SLOW)
    for read in (zoo.get, zoo.card):
        with pytest.raises(permission.NotAskedError) as refused:
            read("plain", seed=1)
        for word in ("plain (seed 1)", "6 min", "python -m lib.zoo train --scale smoke --family plain --seed 1"):
            assert word in str(refused.value)
    assert trainings == [] and not list((house / "cache").rglob("*.safetensors"))


def test_parents_that_are_not_there_count(house, trainings):
    child = {**NET, "start": {"network": "plain"}, "epochs": 1, "family": "child"}
    configure(house, {"images_per_second": {"plain": 0.5, "child": 1.0}}, child=child)  # 360 s, then 60 s
    with pytest.raises(permission.NotAskedError, match=r"child \(seed 0\).* with plain, .* 7 min"):
        zoo.get("child")
    zoo.train_family("smoke", "plain", 0)
    zoo.get("child")
    assert len(trainings) == 2


def test_short_trainings_add_up(house, trainings):
    configure(house, {"images_per_second": {"plain": 1.2}})  # 150 s each
    zoo.get("plain", seed=0)
    zoo.get("plain", seed=0)
    with pytest.raises(permission.NotAskedError, match="after 2 min of training here already"):
        zoo.get("plain", seed=1)
    assert len(trainings) == 1


def test_one_without_an_estimate_counts_as_much_as_the_longest(house):
    configure(house, SLOW, unknown={**NET, "family": "unknown"})
    with pytest.raises(permission.NotAskedError, match="has no estimate"):
        zoo.get("unknown")
    configure(house, {}, unknown={**NET, "family": "unknown"})
    zoo.get("unknown")


def test_who_asks_gets_it_trained(house, trainings, monkeypatch):
    configure(house, SLOW)
    zoo.train_family("smoke", "plain", 0)
    zoo.get("plain", retrain=True)
    monkeypatch.setattr(sys, "argv", ["zoo", "train", "--family", "plain", "--seed", "1"])
    zoo.main()
    monkeypatch.setenv("NEURONS_TRAIN", "1")  # as the engine does for its jobs
    zoo.get("plain", seed=2)
    monkeypatch.delenv("NEURONS_TRAIN")
    evaluations.restarting(lambda: zoo.get("plain", seed=3))  # python -m lib.evaluations
    assert len(trainings) == 5
    monkeypatch.setenv("NEURONS_TRAIN", "0")
    with pytest.raises(permission.NotAskedError):
        zoo.get("plain", seed=4)


def test_smoke_is_trained_in_silence_and_the_other_scales_know_what_their_networks_take(monkeypatch):
    monkeypatch.delenv("NEURONS_CONFIG")
    smoke = config.load("smoke")
    assert sum(permission._seconds(smoke, name) for name in smoke.networks) < permission.UNASKED_SECONDS
    for scale in config.SCALES[1:]:
        preset = config.load(scale)
        assert all(permission._seconds(preset, name) > 0 for name in preset.networks)


def ship_card(house, **changes):
    """The card of `plain` with the results, as of another machine, and no weights anywhere."""
    write_config(house / "config", smoke={**SMOKE, "study": {"robustness": {"seeds": [0]}}})
    config.scale._load.cache_clear()
    zoo.get("plain")
    zoo.ship("smoke")
    shutil.rmtree(house / "cache")
    if changes:
        rewritten(config.results_dir("smoke") / "networks" / "plain-seed0.json", **changes)


def table(makes=None):
    def make():
        if makes is not None:
            makes.append(1)
        return pd.DataFrame({"parameters": [sum(p.numel() for p in zoo.get("plain").parameters())]})

    return evaluations.kept("tests", "plain", "smoke", 0, {}, make)


def test_cards_are_enough_until_something_reads_the_weights(house, trainings):
    ship_card(house)
    trainings.clear()
    told = zoo.train_family("smoke", "plain", 0, cards=True)
    assert told == {"plain": zoo.key("plain")} and trainings == []
    assert zoo.train_family("smoke", "plain", 0) == told and len(trainings) == 1
    zoo.train_family("smoke", "plain", 0, retrain=True, cards=True)
    assert len(trainings) == 2
    assert zoo.train_family("smoke", "half", 0, cards=True) and len(trainings) == 3  # no card of it


def test_only_what_is_kept(house, trainings):
    ship_card(house)
    trainings.clear()
    with cache.only_kept():
        for make in (table, lambda: zoo.get("plain"), lambda: zoo.card("half")):
            with pytest.raises(cache.NotKept):
                make()
    assert trainings == []
    wanted = table()
    shutil.rmtree(house / "cache")
    trainings.clear()
    with cache.only_kept():
        assert table().equals(wanted)
    assert trainings == []


def test_a_table_is_never_kept_under_weights_that_it_was_not_made_with(house):
    ship_card(house, weights="sha256:" + "1" * 64)
    makes: list[int] = []
    with pytest.raises(zoo.NetworkChanged, match=r"plain \(seed 0\)"):
        table(makes)
    tables = config.results_dir("smoke") / "evaluations"
    assert not list(tables.rglob("*.json"))
    table(makes)
    (kept,) = tables.rglob("*.json")
    assert json.loads(kept.read_text())["key"]["weights"] == zoo.card("plain")["weights"]
    table(makes)
    assert len(makes) == 2


def test_the_same_weights_again_are_no_change(house):
    ship_card(house)
    table()
    assert zoo.changed == []


def test_a_command_starts_again_where_a_network_changed(house, monkeypatch):
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: called.append([program, *words]))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "lib.evaluations", "--seed", "0"])
    assert evaluations.restarting(lambda: 7) == 7 and called == []

    def changes():
        raise zoo.NetworkChanged("plain")

    evaluations.restarting(changes)
    assert called == [[sys.executable, sys.executable, "-m", "lib.evaluations", "--seed", "0"]]


def test_the_command_line_says_whether_all_is_kept(house, monkeypatch, capsys):
    run = "lib.experiments.nnslicer:make_scores"
    monkeypatch.setattr("lib.experiments.nnslicer.make_scores", lambda scale, seed: table())
    monkeypatch.setattr(sys, "argv", ["evaluations", "--kept", "--run", run])
    ship_card(house)
    shutil.copy(config.ROOT / "config" / "steps.yaml", house / "config")
    assert evaluations.main() == evaluations.NOT_KEPT and "is not there" in capsys.readouterr().out
    table()
    assert evaluations.main() == 0 and "all is kept" in capsys.readouterr().out
