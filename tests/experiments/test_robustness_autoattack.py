"""What seems robust under APGD and Square: by the method's functions, kept, counted as they say, and drawn."""

import pytest
from training_tools import places

from lib import cache, config, plots, zoo
from lib.experiments.robustness_autoattack import ATTACKS, AUTOATTACK, AutoAttackRun, Settings
from lib.robustness import autoattack_correct, fgsm_sweep


@pytest.fixture
def scale(tmp_path, monkeypatch):
    """Two small digit networks."""
    places(monkeypatch, tmp_path)
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "smoke.yaml").write_text(
        "compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}\n"
        "networks:\n"
        "  '{name}': {grid: {name: [one, two]}, arch: digits-cnn, data: mnist5k, epochs: 1, batch: 50,\n"
        "    train_limit: 500, learning_rate: 0.05, family: digits}\n"
        "study:\n"
        "  robustness:\n"
        "    data: mnist5k\n"
        "    autoattack: {networks: [one, two], images: 30, distances: [16, 32], steps: 5, targets: 2, queries: 10}\n"
    )
    return "smoke"


def test_tables_are_those_of_the_methods_and_computed_once(scale):
    settings = Settings.of(scale)
    found = AUTOATTACK.of(settings)
    run = AutoAttackRun(settings, 0)
    images, model = run.images("test", 30), zoo.get("two", scale, 0)
    given = model, images.images, images.labels
    for distance in (16, 32):
        right = autoattack_correct(*given, distance / 255, steps=5, targets=2, queries=10)
        at = {"network": "two", "epsilon": distance / 255}
        assert found.value("accuracy", attack=ATTACKS[-1], **at) == pytest.approx(right[3].double().mean().item())
        fgsm = fgsm_sweep(*given, [distance / 255]).accuracy[0]
        assert found.value("accuracy", attack="FGSM", **at) == pytest.approx(fgsm)
        each = [found.value("accuracy", attack=attack, **at) for attack in ATTACKS if attack != "FGSM"]
        assert each == sorted(each, reverse=True)
    with cache.only_kept():
        again = AUTOATTACK.of(settings)
        assert again.numbers == found.numbers
        assert len(plots.render(again.figure, "png")) > 5000
    assert list(again.table.columns) == ["network", "epsilon", "no attack", *ATTACKS[1:]]
    assert again.table["epsilon"].tolist() == ["16/255", "32/255"] * 2


def test_a_part_is_one_networks(scale):
    frame = AUTOATTACK.measure(Settings.of(scale), 0, "one")
    assert set(frame["network"]) == {"one"}


@pytest.mark.parametrize("names", [["three"], ["one", "one"]])
def test_networks_that_are_not_there_or_twice_are_refused(scale, names):
    with pytest.raises(config.ConfigError, match="networks"):
        Settings.of(scale, networks=names)
