"""lib.reduced: what a scale makes smaller, read off the two configurations."""

import pytest
from training_tools import places, write_config

from lib import config, reduced

FULL = {"arch": "resnet18", "arch_args": {"width": 64}, "data": "cifar10", "epochs": 100, "batch": 128}
FC = {"arch": "fc5", "data": "cifar10", "epochs": 100, "batch": 512}


@pytest.fixture(autouse=True)
def two_scales(monkeypatch, tmp_path):
    places(monkeypatch, tmp_path)
    small = {**FULL, "arch_args": {"width": 16}, "epochs": 5}
    digits = {**FC, "data": "mnist5k", "train_limit": 500, "arch_args": {"hidden": [8, 4, 4, 2]}}
    write_config(
        tmp_path / "config",
        smoke={"networks": {"a": small, "b": small, "fc": digits, "same": FULL, "only-here": small, "deep": small}},
        paper={
            "networks": {
                "a": FULL,
                "b": {**FULL, "epochs": 200},
                "fc": FC,
                "same": FULL,
                "deep": {**small, "arch": "resnet18-preact"},
            }
        },
    )
    config.scale._load.cache_clear()


def test_each_difference_is_said_once():
    assert reduced.phrases("smoke", ["a"], {}, {}) == ["5 epochs instead of 100", "width 16 instead of 64"]
    assert reduced.phrases("smoke", ["a", "a", "b"], {}, {}) == [
        "width 16 instead of 64",
        "a: 5 epochs instead of 100",
        "b: 5 epochs instead of 200",
    ]


def test_networks_that_differ_are_told_apart_by_architecture_and_data():
    assert reduced.phrases("smoke", ["a", "fc", "same"], {}, {}) == [
        "resnet18 on cifar10: 5 epochs instead of 100, width 16 instead of 64",
        "fc5 on mnist5k: mnist5k instead of cifar10, 500 training images instead of all, "
        "hidden units 8 4 4 2 instead of the default",
    ]


def test_another_architecture_is_said():
    assert reduced.phrases("smoke", ["deep"], {}, {}) == ["resnet18 instead of resnet18-preact"]


def test_data_images_and_arguments_that_one_side_leaves_to_the_default():
    assert reduced.phrases("smoke", ["fc"], {}, {}) == [
        "mnist5k instead of cifar10",
        "500 training images instead of all",
        "hidden units 8 4 4 2 instead of the default",
    ]


def test_nothing_is_said_of_what_is_equal_or_only_here():
    assert reduced.phrases("smoke", ["same", "only-here"], {}, {}) == []
    assert reduced.phrases("paper", ["a", "b", "fc", "same"], {"seeds": (0, 1)}, {"seeds": (0, 1)}) == []


def test_settings_of_the_study():
    own = {"seeds": [0], "test images": 2000, "epsilons": (0, 1, 2), "rank ratios": (0.5, 0.25)}
    full = {"seeds": (0, 1, 2), "test images": 10000, "epsilons": (0, 4, 8), "rank ratios": (0.5, 0.25)}
    assert reduced.phrases("smoke", [], own, full) == ["1 seed instead of 3", "2000 test images instead of 10000"]
    several = reduced.phrases("smoke", [], {"seeds of all classes": [0]}, {"seeds of all classes": [0, 1]})
    assert several == ["1 seed of all classes instead of 2"]
    assert reduced.phrases("smoke", [], {"epochs of gates": 1}, {"epochs of gates": 10}) == [
        "1 epoch of gates instead of 10"
    ]


def test_the_paper_scale_reduces_nothing_and_the_others_something(monkeypatch):
    monkeypatch.delenv("NEURONS_CONFIG")
    said = {name: reduced.phrases(name, config.load(name).networks, {}, {}) for name in config.SCALES}
    assert said["paper"] == []
    assert "mnist5k instead of cifar10" in " ".join(said["smoke"])
    assert "width 16 instead of 64" in " ".join(said["cpu"])
