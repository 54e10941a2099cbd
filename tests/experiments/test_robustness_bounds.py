"""Bounds and smallest eps of named networks: by the methods' functions, kept, and counted as they say."""

import numpy as np
import pytest
import torch
from training_tools import places

from lib import cache, config, robustness, zoo
from lib.experiments import robustness_across, robustness_bounds

NAMES = {"resnet18-t1": "T = 1", "resnet18-t20": "T = 20"}


@pytest.fixture
def scale(tmp_path, monkeypatch):
    """Digit networks at two temperatures, and the other names that the experiments know, of the same recipe."""
    places(monkeypatch, tmp_path)
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "smoke.yaml").write_text(
        "compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}\n"
        "networks:\n"
        "  resnet18-t{t}: {grid: {t: [1, 20]}, arch: digits-cnn, data: mnist5k, epochs: 1, batch: 50,\n"
        "    train_limit: 300, learning_rate: 0.003, optimizer: adamw, temperature: '{t}', family: digits,\n"
        "    transforms: [{use: lib.robustness.temperature.scale_last_layer, factor: '{t}'}]}\n"
        "  '{b}-s{s}':\n"
        "    {like: resnet18-t1, temperature: 1, family: other,\n"
        "     grid: {b: [resnet18-b512, resnet18-b128, alexnet-b128, fc5-b512], s: [0.5]}}\n"
        "  '{b}-r{r}': {like: resnet18-t1, temperature: 1, family: other,\n"
        "    grid: {b: [alexnet-b512, resnet18-b128], r: [0.5]}}\n"
        "  'resnet18-b{b}': {like: resnet18-t1, temperature: 1, family: other, grid: {b: [128, 512]}}\n"
        "  'resnet18-b128-{m}':\n"
        "    {like: resnet18-t1, temperature: 1, family: other, grid: {m: [dense, nuclear, adversarial]}}\n"
        "study:\n"
        "  robustness:\n"
        "    data: mnist5k\n"
        "    test_images: 40\n"
        "    epsilons: [4, 16]\n"
        "    magnitude_pruning: {sparsities: [0.5]}\n"
        "    low_rank: {rank_ratios: [0.5]}\n"
        "    temperature: {temperatures: [1, 20]}\n"
        "    bounds: {networks: [resnet18-t1, resnet18-t20], ray_images: 30, largest: 64, grid_steps: 8,\n"
        "      minimal_images: 12, minimal_steps: 10}\n"
    )
    return "smoke"


def test_tables_are_those_of_the_methods_and_computed_once(scale, monkeypatch):
    settings = robustness_bounds.Settings.of(scale)
    assert {name: where["variant"] for name, where in robustness_bounds.networks(settings).items()} == NAMES
    robustness_bounds.make(scale, 0)
    run = robustness_bounds.BoundsRun(settings, 0)
    images, model = run.images("test", 30), zoo.get("resnet18-t20", scale, 0)
    bound = robustness.lipschitz_bound(model, images.float())
    norms, table = run.norms("resnet18-t20"), run.smallest("resnet18-t20")
    assert norms["norm"].tolist() == [*bound.layers["norm"], bound.value]
    assert norms["layer"].iloc[-1] == "whole"
    ray = robustness.smallest_epsilons(model, images.images, images.labels, 64 / 255, 8)
    assert np.array_equal(table["fgsm"].fillna(np.inf).to_numpy(float), ray.epsilon.numpy())
    assert table["minimal"].iloc[12:].isna().all() and len(table) == 30
    with torch.no_grad():
        wrong = model(images.float()).argmax(1) != images.labels
    assert table["wrong"].astype(bool).tolist() == wrong.tolist()

    for name in ("lipschitz_bound", "sensitivities"):
        monkeypatch.setattr(robustness.bounds, name, None)
    with cache.only_kept():  # the step made all that the items read
        for item in robustness_bounds.ITEMS:
            item.of(settings)
    with pytest.raises(cache.NotKept), cache.only_kept():
        robustness_bounds.BoundsRun(robustness_bounds.Settings.of(scale, grid_steps=9), 0).smallest("resnet18-t1")


def test_numbers_say_what_the_tables_say(scale):
    settings = robustness_bounds.Settings.of(scale)
    bounds, smallest = (item.of(settings) for item in robustness_bounds.ITEMS)
    run = robustness_bounds.BoundsRun(settings, 0)
    for name, temperature in (("resnet18-t1", 1), ("resnet18-t20", 20)):
        table, whole = run.smallest(name), run.norms(name)["norm"].iloc[-1]
        assert bounds.value("bound", network=name) == pytest.approx(whole / temperature)
        largest = bounds.value("sensitivity", network=name, over="largest")
        assert largest == pytest.approx(table["sensitivity"].max() / temperature)
        assert largest <= bounds.value("bound", network=name)
        right = table.iloc[:12].query("wrong == 0")
        if len(right):
            by = {by: bounds.value("smallest_epsilon", network=name, by=by) for by in robustness_bounds.BY}
            assert by["certified"] == pytest.approx(right["certified"].median())
            assert by["certified"] < min(by["minimal"], by["fgsm"])
        curve = smallest.values("share_left", network=name, attack=robustness_bounds.MORE).sort_values("epsilon")
        assert curve["value"].iloc[0] == pytest.approx(1 - table["wrong"].mean())
        assert curve["value"].is_monotonic_decreasing and set(curve["n"]) == {30}
        for attack in ("fgsm", "minimal"):
            same = smallest.values("share_left", network=name, attack=attack).sort_values("epsilon")
            assert set(same["n"]) == {12} and same["value"].iloc[0] == pytest.approx(
                1 - table["wrong"].iloc[:12].mean()
            )
    for results in (bounds, smallest):
        assert len(results.table) and results.figure is not None


def test_a_seed_that_is_not_the_experiments_is_passed_over(scale):
    robustness_bounds.make(scale, 5)
    assert not (config.results_dir(scale) / "evaluations" / "robustness-norms").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"networks": ["resnet18-t3"]}, "'resnet18-t3' is not one of"),
        ({"minimal_images": 31}, "at most ray_images, 30"),
        ({"largest": 0}, "largest"),
        ({"grid_steps": 0}, "grid_steps"),
    ],
)
def test_settings_that_cannot_be_are_refused(scale, changed, message):
    with pytest.raises(config.ConfigError, match=message):
        robustness_bounds.Settings.of(scale, **changed)


def test_comparisons_across_figures_read_the_sweeps_of_the_figures(scale):
    settings = robustness_across.Settings.of(scale)
    results = robustness_across.ACROSS.of(settings)
    run = robustness_across.RobustnessRun(settings, 0)
    for name, where in [
        ("resnet18-b512", {"batch": 512, "sparsity": 0.0}),
        ("resnet18-b128-s0.5", {"batch": 128, "sparsity": 0.5}),
        ("resnet18-b128-nuclear", {"method": "nuclear norm"}),
        ("resnet18-b128-adversarial", {"method": "adversarial"}),
    ]:
        sweep = run.sweep(name)
        assert results.values("accuracy", **where)["value"].tolist() == sweep["accuracy"].tolist()
    assert results.figure is not None
