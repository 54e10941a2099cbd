"""lib.reduced: what a scale makes smaller, read off the two configurations."""

import pytest
import yaml
from training_tools import places, write_config

from lib import config, models, reduced

FULL = {"arch": "resnet18", "arch_args": {"width": 64}, "data": "cifar10", "epochs": 100, "batch": 128}
FC = {"arch": "fc5", "arch_args": {"hidden": [9, 9, 9, 9]}, "data": "cifar10", "epochs": 100, "batch": 512}


@pytest.fixture(autouse=True)
def two_scales(monkeypatch, tmp_path):
    places(monkeypatch, tmp_path)
    small = {**FULL, "arch_args": {"width": 16}, "epochs": 5}
    digits = {**FC, "data": "mnist5k", "train_limit": 500, "arch_args": {"hidden": [8, 4, 4, 2]}}
    plain = {**FULL, "arch_args": {}}
    more = {**FULL, "epochs": 300, "learning_rate": 0.3}
    more["hooks"] = [{"use": "lib.dynamic.static.Slimming", "weight": 0.0003}]
    part = {**FULL, "train_limit": 500}
    write_config(
        tmp_path / "config",
        smoke={
            "networks": {
                "a": small,
                "b": small,
                "fc": digits,
                "same": FULL,
                "only-here": small,
                "a-long": {**small, "epochs": 30},
                "a-long-strong": {**small, "epochs": 12},
                "deep": small,
                "plain": plain,
                "more": more,
                "part": part,
            }
        },
        paper={
            "networks": {
                "a": FULL,
                "a-stated": FULL,
                "b": {**FULL, "epochs": 200},
                "fc": FC,
                "same": FULL,
                "plain": FULL,
                "more": {**FULL, "hooks": [{"use": "lib.dynamic.static.Slimming", "weight": 0.00001}]},
                "part": part,
                "deep": {**small, "arch": "resnet18-preact"},
            }
        },
    )
    config.scale._load.cache_clear()


def stated(**settings):
    """config/sources.yaml of these tests."""
    (config.config_dir() / "sources.yaml").write_text(yaml.safe_dump(settings))


ALL = {"names": ["*"], "states": ["data set", "architecture", "epochs", "width", "hidden units", "training images"]}


def test_each_difference_is_said_once():
    stated(networks=[ALL])
    assert reduced.phrases("smoke", ["a"], {}, {}) == ["5 epochs instead of 100", "width 16 instead of 64"]
    assert reduced.phrases("smoke", ["a", "a", "b"], {}, {}) == [
        "width 16 instead of 64",
        "a: 5 epochs instead of 100",
        "b: 5 epochs instead of 200",
    ]


def test_what_the_source_does_not_state_is_our_reading():
    assert reduced.phrases("smoke", ["a"], {}, {}) == [
        "5 epochs (not stated; our reading: 100)",
        "width 16 (not stated; our reading: 64)",
    ]
    stated(networks=[{"names": ["b*"], "states": ["epochs"]}, {"names": ["*"], "states": ["width"]}])
    assert reduced.phrases("smoke", ["a"], {}, {}) == [
        "5 epochs (not stated; our reading: 100)",
        "width 16 instead of 64",
    ]
    assert "5 epochs instead of 200" in reduced.phrases("smoke", ["b"], {}, {})
    stated(studies={"One 2020": ["pairs"]})
    own, full = {"pairs": 2, "steps": 3}, {"pairs": 5, "steps": 9}
    assert reduced.phrases("smoke", [], own, full, "One 2020") == [
        "2 pairs instead of 5",
        "3 steps (not stated; our reading: 9)",
    ]


def test_networks_that_differ_are_told_apart_by_architecture_and_data():
    stated(networks=[ALL])
    assert reduced.phrases("smoke", ["a", "fc"], {}, {}) == [
        "resnet18 on cifar10: 5 epochs instead of 100, width 16 instead of 64",
        "fc5 on mnist5k: mnist5k instead of cifar10, hidden units 8 4 4 2 instead of 9 9 9 9",
    ]
    assert reduced.phrases("smoke", ["a", "same"], {}, {})[0].startswith("a: "), "not all networks of a kind differ"


def test_a_network_that_is_trained_for_longer_or_at_other_settings_is_compared_with_its_like():
    stated(networks=[ALL])
    assert reduced.phrases("smoke", ["a", "a-long"], {}, {}) == [
        "width 16 instead of 64",
        "a: 5 epochs instead of 100",
        "a-long: 30 epochs instead of 100",
    ]
    assert "12 epochs instead of 100" in reduced.phrases("smoke", ["a-long-strong"], {}, {})


def test_another_architecture_is_said():
    stated(networks=[ALL])
    assert reduced.phrases("smoke", ["deep"], {}, {}) == ["resnet18 instead of resnet18-preact"]


def test_an_argument_that_one_side_leaves_to_the_default():
    stated(networks=[ALL])
    given = reduced.phrases("smoke", ["plain"], {}, {}, defaults=lambda arch: {"width": 32})
    assert given == ["width 32 instead of 64"]


def test_what_is_not_smaller_is_told_apart():
    found = reduced.phrases(
        "smoke", ["more"], {"old samples": 2000, "weight": 0.5}, {"old samples": 1000, "weight": 1.0}
    )
    assert all(phrase.startswith(reduced.OTHER) for phrase in found)
    smaller, other = reduced.split([*found, "1 seed instead of 3"])
    assert smaller == ["1 seed instead of 3"]
    assert other == [
        "300 epochs (not stated; our reading: 100)",
        "learning rate 0.3 (not stated; our reading: 0.1)",
        "weight of slimming 0.0003 (not stated; our reading: 0.00001)",
        "2,000 old samples (not stated; our reading: 1,000)",
        "weight 0.5 (not stated; our reading: 1)",
    ]


def test_a_paper_scale_that_takes_a_part_of_the_images_says_so():
    stated(whole_training_set=["part"], networks=[{"names": ["*"], "states": ["data set"]}])
    for scale in ("smoke", "paper"):
        assert reduced.phrases(scale, ["part"], {}, {}) == ["500 training images instead of all"]


def test_nothing_is_said_of_what_is_equal_or_only_here():
    assert reduced.phrases("smoke", ["same", "only-here"], {}, {}) == []
    assert reduced.phrases("paper", ["a", "b", "fc", "same"], {"seeds": (0, 1)}, {"seeds": (0, 1)}) == []
    assert reduced.phrases("smoke", [], {"seeds": [0]}, {}) == [], "nothing to compare with"


def test_settings_of_the_study():
    stated(studies={"P": ["seeds", "test images", "seeds of all classes", "epochs of gates"]})
    own = {"seeds": [0], "test images": 2000, "epsilons": (0, 1, 2), "rank ratios": (0.5, 0.25)}
    full = {"seeds": (0, 1, 2), "test images": 10000, "epsilons": (0, 4, 8), "rank ratios": (0.5, 0.25)}
    assert reduced.phrases("smoke", [], own, full, "P") == [
        "1 seed instead of 3",
        "2,000 test images instead of 10,000",
    ]
    several = reduced.phrases("smoke", [], {"seeds of all classes": [0]}, {"seeds of all classes": [0, 1]}, "P")
    assert several == ["1 seed of all classes instead of 2"]
    assert reduced.phrases("smoke", [], {"epochs of gates": 1}, {"epochs of gates": 10}, "P") == [
        "1 epoch of gates instead of 10"
    ]
    for what, one in {
        "target subsets in the sweep": "target subset in the sweep",
        "steps of unlearning": "step of unlearning",
    }.items():
        assert reduced.phrases("smoke", [], {what: 1}, {what: 3}, "P") == [f"1 {one} (not stated; our reading: 3)"]
    assert reduced.phrases("smoke", [], {"test images": 50}, {"test images": None}, "P") == [
        "50 test images instead of all"
    ]


@pytest.mark.parametrize("text", ["networks: [{names: a}]", "studies: {P: seeds}", "other: 1", "networks: [1]"])
def test_a_file_of_sources_that_does_not_fit_is_refused(text):
    (config.config_dir() / "sources.yaml").write_text(text)
    with pytest.raises(config.ConfigError, match=r"sources\.yaml"):
        config.sources()


def test_the_settings_named_as_stated_are_settings_that_recipes_have(monkeypatch):
    monkeypatch.delenv("NEURONS_CONFIG")
    paper, known = config.load("paper"), config.sources()
    for names, states in known.networks:
        fitting = [name for name in paper.networks if known.of_network(name) == states]
        assert fitting, f"{names} fit no network"
        words = {word for name in fitting for word in reduced._settings(paper.recipe(name), models.defaults)}
        assert states <= words, states - words
    assert set(known.studies) <= {item.paper for item in config.items().values()}


def test_the_paper_scale_reduces_only_what_it_says_and_the_others_more(monkeypatch):
    monkeypatch.delenv("NEURONS_CONFIG")
    said = {name: " ".join(reduced.phrases(name, config.load(name).networks, {}, {})) for name in config.SCALES}
    assert "100,000 training images instead of all" in said["paper"] and "epochs" not in said["paper"]
    assert "mnist5k (not stated" in said["smoke"] and "mnist5k instead of cifar10" in said["smoke"]
    assert "width 16 instead of 64" in said["cpu"] and "lambda of LCS 4 instead of 1" in said["cpu"]
