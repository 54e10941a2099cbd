"""Units that are trained for longer: which networks, at which seeds, and what is told of their training."""

import pytest
from training_tools import write_config

from experiments.test_lcs_pruning import networks
from lib import config, zoo
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
    seeds = results.values("steps").set_index("network")["per_seed"].map(len)
    assert dict(seeds) == {"dynamic-resnet": 2, "dynamic-resnet-long": 1}
    steps = results.values("steps").set_index("network")["value"]
    assert steps["dynamic-resnet-long"] == EPOCHS * steps["dynamic-resnet"]
    zeros = results.values("zeros", network="dynamic-resnet-long").sort_values("step")
    assert len(zeros) == EPOCHS and zeros["step"].iloc[-1] == steps["dynamic-resnet-long"]
    units = zoo.get("dynamic-resnet-long-stated", "smoke", 0)
    assert zeros["value"].iloc[-1] == pytest.approx(units.sparsity(), abs=1e-6)
    trained = results.value("stage_share", network="dynamic-resnet-long", stage="trained")
    assert results.value("stage_share", network="dynamic-resnet-long", stage="thresholded") <= max(trained, 0.5)
    assert len(results.table) == 2 and results.figure is not None


def test_a_network_without_recipes_is_refused_and_so_is_a_seed_that_none_is_trained_at(tiny):
    with pytest.raises(config.ConfigError, match="dynamic-resnet-short"):
        lcs_training.Settings.of("smoke", networks=["dynamic-resnet-short"])
    settings = lcs_training.Settings.of("smoke", networks=["dynamic-resnet-long"], seeds=[1])
    with pytest.raises(config.ConfigError, match="none of dynamic-resnet-long is trained at seed 1"):
        lcs_training.TRAINING.measure(settings, 1)
