"""Detection at several theta: the rows are those of the experiment on detection at each theta."""

import pytest
from training_tools import places

from lib import cache, config, permission, plots
from lib.experiments import nnslicer_detection, nnslicer_detection_inputs
from lib.experiments.nnslicer_theta_detection import ITEMS, RULES, Settings

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: resnet10-preact, arch_args: {width: 2, normalise: false}, data: mnist5k, epochs: 3, batch: 50,
    train_limit: 1000, learning_rate: 0.05, family: tiny}
attacks: {suite: [fgsm_8], images: 20, fgsm_8: {epsilon: 0.25}}
study:
  nnslicer:
    data: mnist5k
    network: tiny
    seeds: [0]
    profile_per_class: 5
    detection: {forest_trees: 5}
    theta_detection: {thetas: [0.1, 0.5], attacks: [fgsm_8], per_class: 10}
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, one_thread):
    places(monkeypatch, tmp_path)
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "smoke.yaml").write_text(CONFIG)
    with permission.asked():
        yield tmp_path


def test_rows_are_those_of_detection_at_each_theta_and_kept():
    (item,) = ITEMS
    settings = Settings.of("smoke")
    found = item.of(settings)
    for theta in (0.1, 0.5):
        own = {"attacks": ["fgsm_8"], "per_class": 10, "tree_seeds": [3]}
        study = nnslicer_detection.Study(
            nnslicer_detection_inputs.Settings.of("smoke", theta=theta, seeds=[0], **own), 0
        )
        for rule in RULES:
            row = study.rule_table("nnslicer", rule, 3).set_index("attack").loc["fgsm_8"]
            at = {"theta": theta, "rule": rule, "attack": "fgsm_8"}
            assert found.value("auroc", **at) == pytest.approx(row["auroc"])
            assert found.value("recall", **at) == pytest.approx(row["recall"])
            assert found.value("fpr", **at) == pytest.approx(row["fpr"])
    assert found.value("auroc", theta=0.1, rule="forest", attack="fgsm_8") != found.value(
        "auroc", theta=0.5, rule="forest", attack="fgsm_8"
    )
    with cache.only_kept():
        again = item.of(settings)
        assert again.numbers == found.numbers
        assert len(plots.render(again.figure, "png")) > 5000
    assert again.table[["theta", "attack"]].values.tolist() == [[0.1, "FGSM_8"], [0.5, "FGSM_8"]]


@pytest.mark.parametrize("changed", [{"attacks": ["none_such"]}, {"thetas": [0.1, 0.1]}, {"thetas": [1.0]}])
def test_settings_that_cannot_be_are_refused(changed):
    with pytest.raises(config.ConfigError):
        Settings.of("smoke", **changed)


def test_what_is_chosen_beside_theta_reaches_the_detection():
    own = {"neuron": "channel", "profile_per_class": 3, "per_class": 7, "attacks": ["fgsm_8"], "tree_seed": 5}
    study = Settings.of("smoke", **own).at(0.1, 0)
    chosen = study.settings
    assert (chosen.neuron, chosen.profile_per_class, chosen.per_class, chosen.attack_names) == (
        "channel",
        3,
        7,
        ["fgsm_8"],
    )
    assert chosen.theta == 0.1 and chosen.tree_seeds == (5,) and study.seed == 0
