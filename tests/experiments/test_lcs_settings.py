"""Other lambda, rates and budgets: the numbers are those of a training by hand, and everything is kept."""

import copy
from dataclasses import replace

import pytest
from training_tools import write_config

from experiments.test_lcs_pruning import networks
from lib import cache, config, permission, training, zoo
from lib.dynamic.cost import macs
from lib.dynamic.lcs import budget as budgets
from lib.dynamic.lcs.network import insert
from lib.dynamic.lcs.optimise import Alternate, Frozen
from lib.dynamic.scratch.build import shrink
from lib.dynamic.static import l1_structure
from lib.experiments import lcs_curve, lcs_sweep

BASE, COUNT = "dynamic-resnet", 60


@pytest.fixture
def tiny(house):
    few = {"images": COUNT, "calibration_images": COUNT}
    study = {
        "data": "mnist5k",
        "seeds": [0],
        "latency_batches": [1, 8],
        "sweep": {"network": BASE, "weights": [0, 300], "targets": [0.9, 0.1], "epochs": 2, **few},
        "curve": {"networks": [BASE], "budgets": [0.8, 0.5], "epochs": 2, "latency_seconds": 0.01, **few},
    }
    compute = {"device": "cpu", "training_precision": "float32", "channels_last": False}
    made = networks()
    made[f"{BASE}-plain"] = {**made[f"{BASE}-on"], "learning_rate": 0.05}
    write_config(house / "config", smoke={"compute": compute, "networks": made, "study": {"dynamic": study}})
    with permission.asked():
        yield


@pytest.mark.slow
def test_units_at_a_setting_are_those_that_a_training_by_hand_gives(tiny):
    settings = lcs_sweep.Settings.of("smoke")
    results = lcs_sweep.SWEEP.of(settings)
    run = lcs_sweep.SweepRun(settings, 0)
    recipe = replace(config.load("smoke").recipe(f"{BASE}-on"), epochs=2)
    lcs = insert(copy.deepcopy(zoo.get(BASE, "smoke")), masks=lcs_sweep.MASKS)
    history = training.fit(lcs, run.train_images(BASE), recipe, hooks=[Alternate(weight=300, target=0.1)])
    test, at = run.images("test", COUNT), {"weight": 300, "target": 0.1}
    lcs.eval()
    then = results.values("zeros_then", **at).sort_values("step")
    steps = len(run.train_images(BASE)) // recipe.batch
    assert list(then["step"]) == [steps, 2 * steps]
    assert then["value"].tolist() == pytest.approx([row["zeros"] for row in history])
    assert results.value("magnitude", **at) == pytest.approx(history[-1]["magnitude"])
    assert results.value("share", **at) == pytest.approx(budgets.share_of(lcs, test.float()))
    assert results.value("accuracy", **at) == pytest.approx(training.accuracy(lcs, test))
    pulled = {target: results.value("magnitude", weight=300, target=target) for target in (0.9, 0.1)}
    assert pulled[0.1] < pulled[0.9]
    free = {target: results.value("magnitude", weight=0, target=target) for target in (0.9, 0.1)}
    assert free[0.1] == free[0.9]  # where lambda is 0, r says nothing
    with cache.only_kept():
        lcs_sweep.make("smoke", 0)
        again = lcs_sweep.SWEEP.of(settings)
    assert again.numbers == results.numbers and len(again.table) == 4
    flops = again.figure.axes[0]
    ends = flops.transData.transform([(weight, 0) for weight in settings.weights])[:, 0]
    assert ends[1] - ends[0] > 0.5 * flops.bbox.width  # lambda 0 has a place of its own beside the other


@pytest.mark.slow
def test_points_of_the_curve_meet_their_budget_and_are_those_of_a_training_by_hand(tiny):
    settings = lcs_curve.Settings.of("smoke")
    for part in lcs_curve.parts("smoke", 0):
        lcs_curve.make("smoke", 0, **part)
    with cache.only_kept():
        lcs_curve.make("smoke", 1)  # a seed that the scale does not have: nothing is made
        lcs_sweep.make("smoke", 1)
        results = lcs_curve.CURVE.of(settings)
    share = results.values("share").set_index(["method", "budget"])["value"]
    for method in lcs_curve.COMPARED:
        assert share[method, 0.8] == pytest.approx(0.8, abs=0.06) and share[method, 0.5] == pytest.approx(0.5, abs=0.06)
        assert 0.85 < share[method, lcs_curve.UNCUT] < 1.001
    run = lcs_curve.CurveRun(settings, 0)
    recipe, test = replace(config.load("smoke").recipe(f"{BASE}-on"), epochs=2), run.images("test", COUNT)
    whole = macs(zoo.get(BASE, "smoke"), run.shape(BASE))
    for method, hook in (("stated", Frozen(budget=0.5)), ("stated-static", Frozen(budget=0.5, choose="static"))):
        lcs = zoo.get(f"{BASE}-stated", "smoke")
        training.fit(lcs, run.train_images(BASE), recipe, hooks=[hook])
        own = {"method": method, "budget": 0.5}
        assert results.value("accuracy", **own) == pytest.approx(training.accuracy(lcs.eval(), test))
        if method == "stated":
            spent = budgets.image_macs(lcs, test.float()).double().mean().item()
            assert share[method, 0.5] == pytest.approx(spent / whole)
    model = zoo.get(f"{BASE}-plain", "smoke")
    model = shrink(model, l1_structure(model, 0.5, run.shape(BASE)).keep)
    training.fit(model, run.train_images(BASE), recipe)
    own = {"method": "l1", "budget": 0.5}
    assert results.value("accuracy", **own) == pytest.approx(training.accuracy(model.eval(), test))
    assert share["l1", 0.5] == pytest.approx(macs(model, run.shape(BASE)) / whole)
    assert set(results.values("time")["batch"]) == {1, 8} and (results.values("time")["value"] > 0).all()
    assert len(results.table) == 9 and results.figure is not None


def test_without_a_recipe_of_a_plain_network_there_is_no_line_of_l1_norm(tiny):
    settings = lcs_curve.Settings.of("smoke")
    assert settings.methods(BASE) == list(lcs_curve.COMPARED)
    assert settings.methods("dynamic-other") == ["stated", "stated-static"]


@pytest.mark.parametrize("kind", [lcs_sweep.Settings, lcs_curve.Settings])
def test_a_network_without_recipes_is_refused(tiny, kind):
    own = {"network": "dynamic-none"} if kind is lcs_sweep.Settings else {"networks": ["dynamic-none"]}
    with pytest.raises(config.ConfigError, match="dynamic-none"):
        kind.of("smoke", **own)


@pytest.mark.parametrize("changed", [{"weights": [-1]}, {"targets": [1.5]}, {"weights": [1, 1]}, {"budget": 1.0}])
def test_settings_that_cannot_be_are_refused(tiny, changed):
    with pytest.raises(config.ConfigError):
        lcs_sweep.Settings.of("smoke", **changed)
