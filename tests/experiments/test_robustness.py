"""Networks under attack: measured once, kept by what they depend on, compared seed by seed."""

import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from training_tools import places

from lib import cache, config, evaluations, robustness, zoo
from lib.experiments import robustness as shared
from lib.experiments import (
    robustness_low_rank,
    robustness_magnitude_pruning,
    robustness_spectra,
    robustness_temperature,
)
from lib.intervals import of_mean
from lib.robustness.masking import examine

STUDY = {
    "data": "mnist5k",
    "test_images": 40,
    "epsilons": [4, 16],
    "temperature": {
        "temperatures": [1, 20],
        "masking_images": 10,
        "masking_epsilons": [8],
        "pgd_images": 4,
        "cw_images": 2,
    },
    "spectra": {"prunable_images": 30},
}


@pytest.fixture
def scale(tmp_path, monkeypatch):
    """Digit networks trained at T = 1 and 20, and one of a family without a network at T = 1."""
    places(monkeypatch, tmp_path)
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "smoke.yaml").write_text(
        "compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}\n"
        "networks:\n"
        "  resnet18-t{t}: {grid: {t: [1, 20]}, arch: digits-cnn, data: mnist5k, epochs: 1, batch: 50,\n"
        "    train_limit: 300, learning_rate: 0.003, optimizer: adamw, temperature: '{t}', family: digits,\n"
        "    transforms: [{use: lib.robustness.temperature.scale_last_layer, factor: '{t}'}]}\n"
        "  alone: {like: resnet18-t20, temperature: 20, family: alone}\n"
        f"study: {{robustness: {STUDY}}}\n"
    )
    (tmp_path / "config" / "items.yaml").write_text(
        "".join(
            f"{item}: {{title: t, paper: p, source: s, notebook: n, families: [digits]}}\n"
            for item in ("robustness_masking", "robustness_spectra")
        )
    )
    return "smoke"


def run(module, seed=0, **changed):
    kind = {robustness_temperature: "TemperatureRun", robustness_spectra: "SpectraRun"}[module]
    return getattr(module, kind)(module.Settings.of("smoke", **changed), seed)


def step(item, **part):
    evaluations.carry_out(f"lib.experiments.robustness_temperature:{item}", "smoke", 0, **part)


def sweeps():
    return len(list((config.results_dir("smoke") / "evaluations/robustness-sweep").glob("*.json")))


def test_a_part_of_a_step_is_one_network_and_the_whole_makes_the_others(scale):
    step("FIGURE_8", network="resnet18-t20")
    assert sweeps() == 1
    step("FIGURE_8", network="alone")  # of the family, but not of the figure
    assert sweeps() == 1
    step("FIGURE_8")
    assert sweeps() == 2
    step("FIGURE_7", network="resnet18-t1")  # where T is 1, knowing it makes no difference
    assert sweeps() == 2


def test_a_network_is_measured_once_and_by_the_methods_functions(scale, monkeypatch):
    for item in ("FIGURE_7", "FIGURE_8", "MASKING"):
        step(item)
    heat, weights = run(robustness_temperature), run(robustness_spectra)
    frame, images = heat.sweep("resnet18-t20", aware=True), heat.images("test", 40)
    model = zoo.get("resnet18-t20", scale, 0)
    direct = robustness.fgsm_sweep(model, images.images, images.labels, [0, 4 / 255, 16 / 255], 20.0)
    assert frame.columns.tolist() == ["epsilon", "accuracy", "relative_accuracy", "n"]
    assert frame.accuracy.tolist() == direct.accuracy.tolist() and frame.epsilon.tolist() == direct.epsilon.tolist()
    assert frame.relative_accuracy.tolist() == (direct.accuracy / direct.accuracy[0]).tolist()

    spectrum, _ = (weights.spectra(f"resnet18-t{t}") for t in (1, 20))
    assert spectrum.layer.tolist()[-1] == "mean"
    assert spectrum.prunable_share.notna().tolist() == [False] * (len(spectrum) - 1) + [True]
    assert spectrum.stable_rank.iloc[-1] == pytest.approx(spectrum.stable_rank[:-1].mean())

    assert set(heat.masking("resnet18-t20").network) == {"trained", "post-hoc"}
    assert set(heat.masking("resnet18-t1").network) == {"trained"}

    def never(*_, **__):
        raise AssertionError("computed twice")

    for module, name in [
        (shared, "fgsm_sweep"),
        (robustness.masking, "examine"),
        (robustness_spectra, "layer_spectra"),
    ]:
        monkeypatch.setattr(module, name, never)
    assert weights.spectra("resnet18-t1").equals(spectrum)
    with cache.only_kept():  # the steps ahead of the notebook made all that its items read
        for item in robustness_temperature.ITEMS:
            item.of(robustness_temperature.Settings.of(scale))
    assert heat.sweep("resnet18-t20", aware=True).equals(frame)
    for other in (
        lambda: run(robustness_temperature, seed=1).sweep("resnet18-t20"),
        lambda: run(robustness_temperature, epsilons=[4]).sweep("resnet18-t20"),
        lambda: run(robustness_temperature, pgd_steps=2).masking("resnet18-t20"),
        lambda: run(robustness_spectra, prunable_tolerance=0.02).spectra("resnet18-t20"),
    ):
        with pytest.raises(AssertionError, match="computed twice"):
            other()
    monkeypatch.setattr(shared, "VERSION", shared.VERSION + 1)
    with pytest.raises(AssertionError, match="computed twice"):
        heat.sweep("resnet18-t20")


def test_figures_7_and_8_differ_in_what_the_attacker_knows_alone(scale):
    settings = robustness_temperature.Settings.of(scale)
    unaware, aware = (item.of(settings) for item in (robustness_temperature.FIGURE_7, robustness_temperature.FIGURE_8))
    one, other = (results.values("accuracy", temperature=1)["value"].tolist() for results in (unaware, aware))
    assert one == other
    assert set(unaware.read.networks) == {("resnet18-t1", 0), ("resnet18-t20", 0)}
    assert unaware.values("accuracy")["n"].tolist() == [40] * 6
    assert unaware.values("accuracy", epsilon=0.0)["value"].tolist() == aware.values("accuracy", epsilon=0.0)[
        "value"
    ].tolist()  # fmt: skip


def test_more_steps_of_pgd_are_the_settings(scale):
    found = run(robustness_temperature, pgd_steps=2).masking("resnet18-t20")
    images = run(robustness_temperature).images("test", 10)
    models = [zoo.get(f"resnet18-t{t}", scale, 0) for t in (20, 1)]
    told = {"pgd_images": 4, "cw_images": 2, "pgd_steps": 2}
    direct = examine(*models, images.images, images.labels, 20.0, [8 / 255], **told)
    assert found["value"].tolist() == direct["value"].tolist()


def test_refusals(scale):
    with pytest.raises(config.ConfigError, match="no network trained at temperature 1"):
        run(robustness_temperature).masking("alone")
    source = config.config_dir() / "smoke.yaml"
    source.write_text(source.read_text().replace("'data': 'mnist5k', ", ""))
    with pytest.raises(config.ConfigError, match=r"data is missing .*study\.robustness"):
        shared.Robustness.of(scale)


@pytest.mark.parametrize(
    ("experiment", "changed", "words"),
    [
        (robustness_magnitude_pruning, {"sparsities": [0.7]}, "no network 'resnet18-b512-s0.7' .*resnet18-b512-s0.95"),
        (robustness_low_rank, {"rank_ratios": [0.3]}, "no network 'alexnet-b512-r0.3' .*alexnet-b512-r0.125"),
        (robustness_temperature, {"temperatures": [20, 100]}, "1 must be among them"),
        (robustness_temperature, {"temperatures": [1, 7]}, "no network 'resnet18-t7' .*resnet18-t20"),
        (robustness_temperature, {"pgd_images": -1}, "pgd_images is -1"),
        (robustness_temperature, {"epsilons": [300]}, "epsilons is"),
        (robustness_spectra, {"sparsity": 0.3}, "no network 'resnet18-b128-s0.3'"),
        (robustness_spectra, {"rank_ratio": 0.3}, "no network 'resnet18-b128-r0.3'"),
    ],
)
def test_networks_that_nobody_trains_are_refused_before_anything_runs(experiment, changed, words):
    with pytest.raises(config.ConfigError, match=words):
        experiment.Settings.of("smoke", **changed)


def test_a_plain_sweep_loads_no_foolbox():
    code = """
import sys, torch
from lib.experiments import robustness_magnitude_pruning, robustness_spectra, robustness_temperature
from lib.robustness import fgsm
fgsm.fgsm_sweep(torch.nn.Flatten(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), [0.0])
print("foolbox" in sys.modules)
from lib.robustness import masking
print("foolbox" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=config.ROOT, capture_output=True, text=True)
    assert told.stdout.split() == ["False", "True"], told.stderr


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_case_is_a_network_of_the_scale_and_none_is_trained_for_nothing(scale):
    preset, shown = config.load(scale), set()
    for experiment in (robustness_magnitude_pruning, robustness_low_rank):
        settings = experiment.Settings.of(scale)
        shown |= {name for base in experiment.BASES for name in experiment.networks(settings, base)}
    by_weight = robustness_low_rank.normed(robustness_low_rank.Settings.of(scale))
    hooks = [config.thaw(preset.recipe(name).hooks)[0] for name, where in by_weight.items() if where["weight"]]
    assert len(hooks) > 1 and all({**hook, "weight": 0} == {**hooks[0], "weight": 0} for hook in hooks)
    shown |= set(by_weight)
    for experiment in (robustness_temperature, robustness_spectra):
        shown |= set(experiment.networks(experiment.Settings.of(scale)))
    assert shown <= set(preset.networks)
    starts = {recipe.start["network"] for recipe in preset.networks.values() if recipe.start}
    items = [item for item in config.items().values() if item.item.startswith("robustness_")]
    mine = {family for item in items for family in item.families}
    assert {name for name, recipe in preset.networks.items() if recipe.family in mine} <= shown | starts


def numbers(**columns):
    """Rows as `Results.values` gives them, of three seeds: `values` by seed."""
    rows = pd.DataFrame(columns)
    rows["per_seed"] = [dict(enumerate(values)) for values in rows.pop("values")]
    rows["value"] = [sum(values.values()) / len(values) for values in rows["per_seed"]]
    return rows


def test_differences_are_paired_by_seed():
    rows = numbers(epsilon=0.1, t=[1, 20], values=[(0.2, 0.5, 0.8), (0.3, 0.61, 0.9)])
    found = shared.differences(rows, "t", 1).set_index("t")
    assert found.loc[1, "value"] == 0 and found.loc[20, "value"] == pytest.approx((0.1 + 0.11 + 0.1) / 3)
    assert [found.loc[20, "low"], found.loc[20, "high"]] == pytest.approx(of_mean([0.1, 0.11, 0.1], (-1, 1)))


def test_compared_names_the_difference_to_the_base():
    grid = [step / 255 for step in (0, 1, 2, 4, 8, 16)]
    falls = [(0.9 - 0.1 * k,) * 3 for k in range(6)]
    less = [(0.8 - 0.1 * k,) * 3 for k in range(6)]
    rows = numbers(epsilon=[*grid, *grid], sparsity=[0.0] * 6 + [0.9] * 6, values=[*falls, *less])
    table = shared.compared(rows, "sparsity", 0.0).set_index("sparsity")
    assert table.columns.tolist() == ["ε = 0/255", "ε = 2/255", "ε = 4/255", "ε = 16/255"]
    assert table.loc["0"].tolist() == ["0.900", "0.700", "0.600", "0.400"]
    assert table.loc["0.9"].tolist() == ["0.800 (-0.100)", "0.600 (-0.100)", "0.500 (-0.100)", "0.300 (-0.100)"]


def test_a_sweeps_figure_shows_the_difference_large_in_points_and_open_where_its_interval_holds_0():
    values = [(0.4, 0.5, 0.7), (0.4, 0.5, 0.7), (0.2, 0.3, 0.51), (0.3, 0.5, 0.8)]
    rows = numbers(epsilon=[0.0, 0.1] * 2, sparsity=[0.0, 0.0, 0.9, 0.9], values=values).assign(low=0.2, high=0.8)
    figure = shared.figure(rows, rows, "sparsity", 0.0, "the dense network", "{:.0%} zeros")
    large, *small = figure.axes
    areas = [ax.get_position().width * ax.get_position().height for ax in figure.axes]
    assert len(small) == 2 and areas[0] > 2 * max(areas[1:])
    named = {line.get_label(): line for line in large.lines}
    assert named["90% zeros"].get_ydata() == pytest.approx([-(20 + 20 + 19) / 3, 0]) and "0% zeros" not in named
    (opened,) = [line for line in large.lines if line.get_markerfacecolor() == "white"]
    assert opened.get_xdata().tolist() == [0.1] and len(large.collections) == 1
    assert [len(ax.collections) for ax in small] == [2, 2]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == ["0% zeros", "90% zeros"] and len(words) == 4


def test_one_seed_has_no_open_markers():
    rows = pd.DataFrame({"epsilon": [0.0, 0.1] * 2, "t": [1, 1, 20, 20], "value": [0.5, 0.4, 0.5, 0.6]})
    rows["per_seed"] = [{0: value} for value in rows["value"]]
    figure = shared.figure(rows, rows, "t", 1, "T = 1", "T = {:g}")
    assert not [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]


def test_methods_name_variant_and_ratio_in_one():
    rows = pd.DataFrame({"variant": ["dense", "low-rank", "nuclear"], "rank_ratio": [1.0, 0.25, 1.0]})
    assert robustness_low_rank.methods(rows)["method"].tolist() == ["dense", "low rank 0.25", "nuclear norm"]


def test_a_twin_that_a_stronger_attack_fools_less_often_is_named():
    def sweep(network, variant, *values):
        return [
            {"network": network, "variant": variant, "epsilon": step / 255, "seed": seed, "value": value}
            for step, pair in zip((0, 2, 8), values, strict=True)
            for seed, value in enumerate(pair)
        ]

    def found(rows):
        return robustness_spectra.collapsed(SimpleNamespace(rows=lambda _: pd.DataFrame(rows)))

    sound = [
        *sweep("a", "adversarial", (0.7, 0.7), (0.6, 0.6), (0.4, 0.45)),
        *sweep("a", "dense", (0.8, 0.8), (0.1, 0.1), (0.5, 0.5)),
    ]
    assert found(sound).empty
    broken = [*sound, *sweep("b", "adversarial", (0.7, 0.7), (0.6, 0.1), (0.5, 0.8))]
    assert found(broken).values.tolist() == [["b", 1, 2.0, 0.1, 8.0, 0.8]]
