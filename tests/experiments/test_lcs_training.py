"""Units that are trained for longer: which networks, at which seeds, and what is told of their training."""

import pytest
from training_tools import write_config

from experiments.test_lcs_pruning import networks
from lib import config, training, zoo
from lib.dynamic.lcs.controls import narrowed
from lib.experiments import lcs_training

EPOCHS = 3


def _longer(name):
    return name.replace("resnet", "resnet-long", 1)


@pytest.fixture
def tiny(house):
    made = networks()
    for name, recipe in networks().items():
        own = {**recipe}
        if "like" in own:
            own["like"] = _longer(own["like"])
        if "start" in own:
            own["start"] = {"network": _longer(own["start"]["network"])}
        made[_longer(name)] = own
    made["dynamic-resnet-long-stated"]["epochs"] = EPOCHS
    hook = {"use": "lib.dynamic.lcs.optimise.Alternate", "weight": 300.0, "target": 0.0}
    made["dynamic-resnet-long-strong"] = {**made["dynamic-resnet-long-stated"], "hooks": [hook]}
    for end in ("-b0.5", "-b0.5-static"):
        stated = made[f"dynamic-resnet-long-stated{end}"]
        made[f"dynamic-resnet-long-strong{end}"] = {**stated, "start": {"network": "dynamic-resnet-long-strong"}}
    for name, recipe in made.items():
        if "-long" in name:
            recipe["family"] = "dynamic-resnet-long"
    section = {"networks": ["dynamic-resnet", "dynamic-resnet-long"], "images": 60}
    section |= {"calibration_images": 60, "latency_seconds": 0.01}
    study = {"data": "mnist5k", "seeds": [0, 1], "latency_batches": [1], "training": section}
    study["family_seeds"] = {"dynamic-resnet-long": [0]}
    compute = {"device": "cpu", "training_precision": "float32", "channels_last": False}
    write_config(house / "config", smoke={"compute": compute, "networks": made, "study": {"dynamic": study}})


@pytest.mark.slow
def test_longer_networks_are_those_of_the_first_seed_and_their_training_is_told_epoch_by_epoch(tiny):
    settings = lcs_training.Settings.of("smoke")
    results = lcs_training.TRAINING.of(settings)
    steps = results.values("steps").set_index(["network", "form"])
    seeds = {
        ("dynamic-resnet", "stated"): 2,
        ("dynamic-resnet-long", "stated"): 1,
        ("dynamic-resnet-long", "strong"): 1,
    }
    assert dict(steps["per_seed"].map(len)) == seeds
    steps = steps["value"]
    for form in ("stated", "strong"):
        own = {"network": "dynamic-resnet-long", "form": form}
        assert steps["dynamic-resnet-long", form] == EPOCHS * steps["dynamic-resnet", "stated"]
        zeros = results.values("zeros", **own).sort_values("step")
        assert len(zeros) == EPOCHS and zeros["step"].iloc[-1] == steps["dynamic-resnet-long", form]
        units = zoo.get(f"dynamic-resnet-long-{form}", "smoke", 0)
        assert zeros["value"].iloc[-1] == pytest.approx(units.sparsity(), abs=1e-6)
        trained = results.value("stage_share", **own, stage="trained")
        assert results.value("stage_share", **own, stage="thresholded") <= max(trained, 0.5)
    accuracy = results.values("accuracy", network="dynamic-resnet-long").set_index("method")["value"]
    test = lcs_training.TrainingRun(settings, 0).test("dynamic-resnet-long")
    tuned = zoo.get("dynamic-resnet-long-strong-b0.5", "smoke", 0)
    assert accuracy["strong"] == pytest.approx(training.accuracy(tuned, test))
    static = narrowed(zoo.get("dynamic-resnet-long-strong-b0.5-static", "smoke", 0))
    assert accuracy["strong-static"] == pytest.approx(training.accuracy(static, test))
    row = results.table.set_index("units").loc[lcs_training.METHODS["strong"]]
    assert (row["accuracy"], row["one mask for all"]) == (accuracy["strong"], accuracy["strong-static"])
    (legend,) = [text for ax in results.figure.axes for text in ax.get_legend_handles_labels()[1] if "λ 300" in text]
    assert "r 0" in legend
    sizes = results.values("magnitude", network="dynamic-resnet-long", step=zeros["step"].iloc[-1]).set_index("form")
    assert sizes["value"]["strong"] < sizes["value"]["stated"]
    methods = results.values("accuracy").groupby("network")["method"].agg(set)
    assert methods["dynamic-resnet-long"] == set(lcs_training.COMPARED)
    assert methods["dynamic-resnet"] == {m for m in lcs_training.COMPARED if not m.startswith("strong")}
    assert len(results.table) == 3 and results.figure is not None


def test_units_with_a_stronger_term_need_what_is_fine_tuned_at_the_budget(house):
    made = networks()
    made["dynamic-resnet-strong"] = made["dynamic-resnet-stated"]
    compute = {"device": "cpu", "training_precision": "float32", "channels_last": False}
    study = {"dynamic": {"data": "mnist5k", "seeds": [0], "training": {"networks": ["dynamic-resnet"]}}}
    write_config(house / "config", smoke={"compute": compute, "networks": made, "study": study})
    with pytest.raises(config.ConfigError, match=r"dynamic-resnet-strong-b0\.5"):
        lcs_training.Settings.of("smoke")


@pytest.mark.parametrize("scale", config.SCALES)
def test_rivals_are_trained_on_for_as_long_as_units_and_fine_tuning_together(scale):
    chosen, known = lcs_training.Settings.of(scale), config.load(scale).networks
    for base in chosen.networks:
        for form in chosen.trained(base):
            for end in (f"-b{budget:g}{static}" for budget in chosen.budgets for static in ("", "-static")):
                both = known[f"{base}-{form}"].epochs + known[f"{base}-{form}{end}"].epochs
                assert both == known[f"{base}-on"].epochs
    for name in (name for name in known if name.startswith("dynamic-") and name.endswith("-plain")):
        assert known[name].epochs == known[name.replace("-plain", "-stated")].epochs


def test_a_network_without_recipes_is_refused_and_so_is_a_seed_that_none_is_trained_at(tiny):
    with pytest.raises(config.ConfigError, match="dynamic-resnet-short"):
        lcs_training.Settings.of("smoke", networks=["dynamic-resnet-short"])
    settings = lcs_training.Settings.of("smoke", networks=["dynamic-resnet-long"], seeds=[1])
    with pytest.raises(config.ConfigError, match="none of dynamic-resnet-long is trained at seed 1"):
        lcs_training.TRAINING.measure(settings, 1)
