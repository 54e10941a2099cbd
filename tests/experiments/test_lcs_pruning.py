"""Networks pruned by image and once for all: every number of the notebook, from networks that train a few steps."""

import pytest
from training_tools import TINY, write_config

from lib import cache, config, plots
from lib.experiments import lcs_pruning
from lib.experiments.lcs_pruning import CHOICES, FORMS, METHODS, STAGES

ON = {"like": "dynamic-resnet", "start": {"network": "dynamic-resnet"}, "epochs": 1}
INSERT, FROZEN = "lib.dynamic.lcs.network.insert", "lib.dynamic.lcs.optimise.Frozen"


def networks():
    """Recipes of one dense network and all that the experiment wants beside it."""
    made = {
        "dynamic-resnet": {**TINY, "arch": "resnet20", "arch_args": {"width": 4}, "epochs": 1, "learning_rate": 0.02},
        "dynamic-resnet-on": ON,
        "dynamic-resnet-boosting-b0.5": {
            **ON,
            "transforms": [{"use": "lib.dynamic.boosting.insert", "budget": 0.5, "shape": [1, 28, 28]}],
            "hooks": [{"use": "lib.dynamic.boosting.Boost"}],
        },
    }
    for form in FORMS:
        name = f"dynamic-resnet-{form}"
        made[name] = {
            **ON,
            "transforms": [{"use": INSERT, "masks": 3, "form": form}],
            "hooks": [{"use": "lib.dynamic.lcs.optimise.Alternate"}],
        }
        for suffix, choose in (("", {}), ("-static", {"choose": "static"})):
            hooks = [{"use": FROZEN, "budget": 0.5, **choose}]
            made[f"{name}-b0.5{suffix}"] = {**ON, "start": {"network": name}, "hooks": hooks}
    return {name: {**recipe, "family": "dynamic"} for name, recipe in made.items()}


@pytest.fixture
def tiny(house):
    study = {
        "data": "mnist5k",
        "seeds": [0],
        "gate_epochs": 1,
        "latency_batches": [1, 8],
        "pruning": {
            "networks": ["dynamic-resnet"],
            "images": 60,
            "calibration_images": 60,
            "latency_seconds": 0.01,
        },
    }
    compute = {"device": "cpu", "training_precision": "float32", "channels_last": False}
    write_config(house / "config", smoke={"compute": compute, "networks": networks(), "study": {"dynamic": study}})


@pytest.mark.slow
def test_everything_is_measured_once(tiny):
    settings = lcs_pruning.Settings.of("smoke")
    results = lcs_pruning.PRUNING.of(settings)
    share = results.values("share").set_index("method")["value"]
    assert set(share.index) == set(METHODS) and share["dense"] == share["dense-on"] == 1
    assert share.drop(["dense", "dense-on"]).to_numpy() == pytest.approx(0.5, abs=0.12)
    sizes = results.values("parameters").set_index("method")["value"]
    assert sizes["l1"] < sizes["dense"] < sizes["stated"]
    assert (results.values("seconds")["value"] > 0).all() and set(results.values("time")["batch"]) == {1, 8}
    assert set(results.values("memory_mb")["method"]) == set(FORMS) and results.values("memory_mb")["value"].min() > 0

    stages = lcs_pruning.wide(results, "stage")
    assert list(stages["stage"]) == [*STAGES.values()] * 2
    assert list(lcs_pruning.wide(results, "choice")["choice"]) == [*CHOICES.values()] * 2
    cut = stages.set_index(["form", "stage"])
    for form in FORMS:
        before, after = (cut.loc[(form, STAGES[stage])] for stage in ("trained", "thresholded"))
        assert after["zeros"] > before["zeros"] and after["FLOPs"] <= 0.52
    assert list(results.table["method"]) == list(METHODS.values())
    for figure in (results.figure, lcs_pruning.draw_choices(results)):
        assert len(plots.render(figure, "png")) > 5000

    with cache.only_kept():
        assert lcs_pruning.PRUNING.of(settings).numbers == results.numbers  # times included


def test_a_network_that_is_missing_is_named_before_anything_runs(tiny):
    with pytest.raises(config.ConfigError, match=r"budgets .* needs a network 'dynamic-resnet-stated-b0\.25'"):
        lcs_pruning.Settings.of("smoke", budgets=[0.25])
