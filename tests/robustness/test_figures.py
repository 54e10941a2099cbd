"""From rows of single seeds to a record's numbers, and the texts and plots made of them."""

import math

import matplotlib.pyplot as plt
import pytest

from lib import config
from lib.intervals import of_mean, wilson
from lib.robustness import cases, drawing, figures


def rows(name="accuracy", unit=figures.SHARE, seeds=(0, 1, 2), **where):
    return [
        {"name": name, "value": 0.5 + 0.1 * seed, "unit": unit, "n": 100 + seed, "seed": seed, **where}
        for seed in seeds
    ]


def test_numbers_group_rows_by_all_but_the_seed():
    made = figures.numbers([*rows(epsilon=0.0), *rows(epsilon=0.1), *rows(name="stable_rank", epsilon=0.1)])
    assert [(entry["name"], entry["where"]) for entry in made] == [
        ("accuracy", {"epsilon": 0.0}),
        ("accuracy", {"epsilon": 0.1}),
        ("stable_rank", {"epsilon": 0.1}),
    ]
    assert made[0]["per_seed"] == pytest.approx([0.5, 0.6, 0.7]) and made[0]["seeds"] == [0, 1, 2]
    assert made[0]["ci95"] == pytest.approx(of_mean([0.5, 0.6, 0.7], (0, 1)))
    assert made[0]["n"] == 100, "the smallest number of images counts"


def test_one_seed_has_an_interval_over_images_only_for_a_share_of_images():
    share, rank = figures.numbers([*rows(seeds=(0,)), *rows(name="stable_rank", unit="directions", seeds=(0,))])
    assert share["ci95"] == pytest.approx(wilson(0.5, 100)) and "over images" in share["note"]
    assert rank["ci95"] is None


def test_seeds_are_one_several_or_the_scales():
    assert figures.seeds_of("smoke", 3) == [3] and figures.seeds_of("smoke", [1, 2]) == [1, 2]
    assert figures.seeds_of("smoke") == list(config.load("smoke").study["robustness"]["seeds"])
    for wrong in ("[0]", [], [0.5]):
        with pytest.raises(ValueError, match=r"seeds is .* whole numbers"):
            figures.seeds_of("smoke", wrong)


def sweep(key, values):
    return figures.numbers(
        [row for value in values for epsilon in (0.0, 0.1, 0.2, 0.3) for name in ("accuracy", "relative_accuracy")
         for row in rows(name, epsilon=epsilon, **{key: value})]
    )  # fmt: skip


def test_reading_names_the_difference_to_the_base():
    text = figures.reading(sweep("temperature", [1, 20]), "temperature", 1)
    assert "| 20 | 0.600 (+0.000) |" in text and "| 1 | 0.600 |" in text


def test_sweep_plot_has_a_line_for_each_network_and_a_band():
    figure, axes = plt.subplots(1, 3, layout="constrained")
    drawing.sweep(axes, sweep("sparsity", [0.0, 0.9]), hue="sparsity", base=0.0, label="{:.0%} zeros")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["0% zeros", "90% zeros"]
    assert len(axes[0].collections) == 2
    plt.close(figure)


def test_differences_are_paired_by_seed():
    made = figures.numbers(
        [
            {"name": "accuracy", "value": v, "unit": figures.SHARE, "n": 9, "seed": seed, "epsilon": 0.1, "t": t}
            for t, values in ((1, (0.2, 0.5, 0.8)), (20, (0.3, 0.61, 0.9)))
            for seed, v in enumerate(values)
        ]
    )
    rows = drawing.differences(figures.frame(made), "t", 1).set_index("t")
    assert rows.loc[1, "value"] == 0 and rows.loc[20, "value"] == pytest.approx((0.1 + 0.11 + 0.1) / 3)
    assert [rows.loc[20, "low"], rows.loc[20, "high"]] == pytest.approx(of_mean([0.1, 0.11, 0.1], (-1, 1)))


def test_methods_name_variant_and_ratio_in_one():
    where = [("dense", 1.0), ("low-rank", 0.25), ("nuclear", 1.0)]
    made = figures.numbers([row for variant, ratio in where for row in rows(variant=variant, rank_ratio=ratio)])
    assert [entry["where"]["method"] for entry in drawing.methods(made)] == ["dense", "low rank 0.25", "nuclear norm"]


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_case_is_a_network_of_the_scale(scale):
    preset = config.load(scale)
    settings = preset.study["robustness"]
    shown = {**cases.temperatures(settings), **cases.spectra(settings)}
    for base in ("resnet18-b512", "resnet18-b128", "alexnet-b128", "fc5-b512"):
        shown |= cases.pruned(base, settings)
    for base in ("alexnet-b512", "resnet18-b128"):
        shown |= cases.low_rank(base, settings)
    assert set(shown) <= set(preset.networks)
    # and the other way round: no network is trained that no figure shows or starts from
    starts = {recipe.start["network"] for recipe in preset.networks.values() if recipe.start}
    items = [item for item in config.items().values() if item.item.startswith("robustness_")]
    mine = {family for item in items for family in item.families}
    trained = {name for name, recipe in preset.networks.items() if recipe.family in mine}
    assert trained <= set(shown) | starts


def test_nothing_is_infinite_in_a_frame():
    frame = figures.frame(sweep("temperature", [1]), temperature=1)
    assert len(frame) == 4 and all(math.isfinite(value) for value in frame["value"])


def test_a_twin_that_a_stronger_attack_fools_less_often_is_named():
    def sweep(network, variant, *values):
        return [
            {"name": "accuracy", "value": value, "unit": figures.SHARE, "n": 100, "seed": seed}
            | {"network": network, "variant": variant, "epsilon": step / 255}
            for step, pair in zip((0, 2, 8), values, strict=True)
            for seed, value in enumerate(pair)
        ]

    sound = [
        *sweep("a", "adversarial", (0.7, 0.7), (0.6, 0.6), (0.4, 0.45)),
        *sweep("a", "dense", (0.8, 0.8), (0.1, 0.1), (0.5, 0.5)),
    ]
    assert figures.collapsed(figures.numbers(sound)).startswith("No robust twin has collapsed")
    broken = [*sound, *sweep("b", "adversarial", (0.7, 0.7), (0.6, 0.1), (0.5, 0.8))]
    told = figures.collapsed(figures.numbers(broken))
    assert told.count("Collapsed") == 1 and "twin of b at seed 1" in told
    assert "at 8/255 on 80 %" in told and "at 2/255 on 10 %" in told
