"""The studies of pruning from scratch: numbers, tables, texts and plots of invented tables; and tiny networks."""

import copy
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from training_tools import places, same, state, write_config

from lib import config, plots, record, training, zoo
from lib.dynamic import cost
from lib.dynamic.study import diversity, diversity_records, draw_scratch, scratch, scratch_networks, scratch_records
from lib.evaluations import frame

pytestmark = pytest.mark.usefixtures("one_thread")
NET = {
    "data": "mnist5k",
    "train_limit": 64,
    "epochs": 2,
    "batch": 32,
    "arch": "resnet20",
    "arch_args": {"width": 2},
    "storage": "float32",
}
SLIM = {"use": "lib.dynamic.static.Slimming", "weight": 0.001}
SMOKE = {
    "compute": {"device": "cpu", "training_precision": "float32", "channels_last": False},
    "networks": {
        "tiny": {**NET, "family": "tiny"},
        "tiny-half": {"like": "tiny", "epochs": 1},
        "tiny-half-slim": {"like": "tiny-half", "hooks": [SLIM]},
    },
    "study": {
        "dynamic": {
            "data": "mnist5k",
            "seeds": [0],
            "scratch_networks": ["tiny"],
            "diversity_networks": ["tiny"],
            "scratch_expansion": 1.5,
            "gate_images": 40,
            "gate_epochs": 1,
            "gate_batch": 12,
            "diversity_starts": 2,
            "diversity_epochs": [1],
            "latency_repeats": 2,
            "latency_batches": [2],
        }
    },
}


def rows(seed: int = 0) -> pd.DataFrame:
    """A table as `scratch.table` has it, from scratch a point ahead of all."""
    made = []
    for network in ("one", "two"):
        for place, method in enumerate(scratch.METHODS):
            whole = method == "full"
            told: dict[str, Any] = {
                "accuracy": 0.9 if whole else 0.8 + 0.01 * method.startswith("scratch") + 0.001 * seed
            }
            told |= {"parameters": 1000, "macs": 10000 if whole else 5000, "share": 1.0 if whole else 0.5}
            told |= {"train_seconds": 8.0, "train_images": 400, "epochs": 4, "n": 500}
            told |= {"search_seconds": 1.0 + place, "search_images": 100 * (not whole), "same_as": None}
            told |= {"train_work": 3 * 400 * told["macs"], "search_work": 2 * 100 * 15000 * (not whole)}
            told |= {"source_epochs": 10 if method.startswith("scratch") else 80}
            gates = {"zeros": 0.3, "mean_gate": 0.4, "rule": "most zeros"} if method == "scratch" else {}
            told |= {"batch1": 0.002 if whole else 0.0012, "batch64": 0.001 if whole else 0.0006}
            made.append({"network": network, "method": method, "budget": 1.0 if whole else 0.5, **told, **gates})
    return pd.DataFrame(made)


FRAMES = {seed: rows(seed) for seed in (0, 1, 2)}


def valid(numbers, table):
    """Check a table as records do: every number in it is one of the record's."""
    from lib.contract import _check_table

    _check_table({"table": record._plain_table(table, "item"), "numbers": numbers}, "item")


def test_numbers_of_pruned_networks():
    numbers = scratch_records.pruning_numbers(FRAMES)
    found = frame(numbers, network="one", method="scratch").iloc[0]
    assert found["value"] == pytest.approx(0.811) and found["seeds"] == 3 and found["n"] == 500
    assert frame(numbers, "flops", network="one", method="l1")["value"].item() == 10000
    assert frame(numbers, "latency", network="one", method="full", batch=1)["value"].item() == pytest.approx(2.0)
    assert set(frame(numbers, "zero_gates")["method"]) == {"scratch"}
    assert frame(numbers, "most_zeros", network="two")["value"].item() == 1
    table = scratch_records.pruning_table(numbers)
    assert len(table) == 2 * len(scratch.METHODS) and table["method"].iloc[0] == "the whole network"
    valid(numbers, table)


def test_numbers_of_cost():
    numbers = scratch_records.cost_numbers(FRAMES)
    assert frame(numbers, "total_seconds", network="one", method="scratch")["value"].item() == pytest.approx(10)
    work = frame(numbers, "training_work", network="one").set_index("method")["value"]
    at_source = frame(numbers, "search_at_source", network="one").set_index("method")["value"]
    assert at_source["scratch"] == pytest.approx(1e3 * 2 / 100 * 10) and "full" not in at_source
    assert work["full"] == 1
    assert work["scratch"] == pytest.approx((3 * 400 * 5000 + 2 * 100 * 15000) / (3 * 400 * 10000))
    assert frame(numbers, "search_work", network="one", method="scratch")["value"].item() == pytest.approx(0.25)
    valid(numbers, scratch_records.cost_table(numbers))


def test_a_structure_found_twice_stands_once():
    """A method whose structure is another's for every seed is left out; one that differs once is kept."""

    def alike(seed, networks):
        table = rows(seed)
        table.loc[(table["method"] == "slimming-floor") & table["network"].isin(networks), "same_as"] = "slimming"
        return table

    found = scratch_records.distinct({0: alike(0, ["one", "two"]), 1: alike(1, ["one"])})
    floors = {seed: table[table["method"] == "slimming-floor"]["network"].tolist() for seed, table in found.items()}
    assert floors == {0: ["two"], 1: ["two"]}
    assert all(len(table) == 2 * len(scratch.METHODS) - 1 for table in found.values())
    numbers = scratch_records.pruning_numbers(found)
    assert len(scratch_records.pruning_table(numbers)) == 2 * len(scratch.METHODS) - 1
    _, axes = plots.panels(2)
    draw_scratch.accuracies(axes, numbers, 0.5)
    draw_scratch.costs(axes, scratch_records.cost_numbers(found), 0.5)
    assert [text.get_text() for text in axes[0].texts].count("the same structure") == 2  # once a plot
    plt.close("all")


def test_a_network_of_one_seed_says_so():
    frames = {seed: table if not seed else table[table["network"] == "one"] for seed, table in FRAMES.items()}
    _, axes = plots.panels(2)
    draw_scratch.accuracies(axes, scratch_records.pruning_numbers(frames), 0.5)
    assert [ax.get_title() for ax in axes] == ["one", "two, one seed,\ninterval over images"]
    draw_scratch.costs(axes, scratch_records.cost_numbers(frames), 0.5)
    assert [ax.get_title() for ax in axes] == ["one", "two, one seed"]
    plt.close("all")


def test_texts_say_what_the_numbers_say():
    numbers, costs = scratch_records.pruning_numbers(FRAMES), scratch_records.cost_numbers(FRAMES)
    text = scratch_records.accuracy_reading(numbers)
    assert "from scratch, budget:** +0.0 (+0.0 to +0.0)" not in text
    assert text.count("+1.0 (+1.0 to +1.0) over uniform") == 6
    assert "+1.0 (+1.0 to +1.0) over network slimming" in text
    assert "uniform narrowing**, which chooses nothing, has +0.0 (+0.0 to +0.0) over L1 norm" in text
    assert "widening first +1.0" in scratch_records.control_reading(numbers)
    assert "30.0 % are zero, their mean is 0.40" in scratch_records.gates_reading(numbers)
    assert "was met in 0 % of the runs" in scratch_records.gates_reading(numbers)
    assert "one, batch 64, from scratch: 40 % less time for 50 % fewer FLOPs" in scratch_records.latency_reading(
        numbers
    )
    assert "from scratch 2 s, 0.25 of a training's work; L1 norm 9 s (4.5 times" in scratch_records.cost_reading(costs)
    assert "0.03 of L1 norm's seconds" in scratch_records.cost_reading(costs)


def structures(starts=3) -> pd.DataFrame:
    """As `diversity.structures` has it: alike once trained, far apart before."""
    made = []
    for start in range(starts):
        for epoch in (-1, 0, 2):
            for layer, width in enumerate((10, 20, 40)):
                share = {-1: (0.2, 0.9, 0.5), 0: (0.5, 0.5 + 0.1 * start, 0.8 - 0.2 * start), 2: (0.9, 0.5, 0.2)}[epoch]
                about = {"initialisation": start, "epoch": epoch, "layer": f"l{layer}", "width": width}
                told = {"zeros": None if epoch < 0 else 0.1, "mean_gate": None if epoch < 0 else 0.5}
                told |= {"accuracy": 0.7 + 0.01 * epoch + 0.001 * start, "n": 500}
                made.append({**about, "kept": round(share[layer] * width), **told})
    return pd.DataFrame(made)


def test_correlations_between_initialisations():
    table = structures()
    found = diversity.between_starts(table).set_index(["epoch", "initialisation"])
    assert (found.loc[2, "correlation"] == 1).all() and (found.loc[2, "distance"] == 0).all()
    ratio = {start: np.array([0.5, 0.5 + 0.1 * start, 0.8 - 0.2 * start]) for start in range(3)}
    wanted = np.mean([np.corrcoef(ratio[0], ratio[other])[0, 1] for other in (1, 2)])
    assert found.loc[(0, 0), "correlation"] == pytest.approx(wanted)
    assert found.loc[(0, 0), "distance"] == pytest.approx(np.mean([abs(ratio[0] - ratio[k]).mean() for k in (1, 2)]))
    assert found.loc[(0, 0), "count_correlation"] > found.loc[(0, 0), "correlation"]  # wide layers have more to keep


def test_correlation_where_nothing_varies():
    flat, bent = np.array([0.5, 0.5]), np.array([0.4, 0.6])
    assert diversity.correlation(flat, flat) == 1 and diversity.correlation(flat, bent) == 0
    assert diversity.correlation(bent, bent[::-1]) == pytest.approx(-1)


def test_one_initialisation_has_no_pairs():
    alone = structures(starts=1)
    assert diversity.between_starts(alone).empty
    numbers = diversity_records.numbers_of({"net": alone}, seed=0)
    assert "nothing to correlate" in diversity_records.control_reading(numbers)
    assert "accuracy after training 0.700 against 0.720" in diversity_records.reading(numbers)


def test_numbers_and_texts_of_diversity():
    numbers = diversity_records.numbers_of({"net": structures()}, seed=0)
    assert diversity_records.starts_in(numbers) == ["random scores", "random weights", "trained"]
    assert {seed for number in numbers for seed in number["seeds"]} == {0}
    assert frame(numbers, start="trained", initialisation=1)["value"].item() == pytest.approx(0.721)
    valid(numbers, diversity_records.wide(numbers))
    assert "correlation of keep ratios" in diversity_records.reading(numbers)
    assert diversity_records.start_of(1, 4) == "after epoch 1"


def test_everything_is_drawn():
    numbers, costs = scratch_records.pruning_numbers(FRAMES), scratch_records.cost_numbers(FRAMES)
    _, axes = plots.panels(2)
    draw_scratch.accuracies(axes, numbers, 0.5)
    assert [ax.get_title() for ax in axes] == ["one", "two"]
    draw_scratch.costs(axes, costs, 0.5)
    table = {"net": structures()}
    _, axes = plots.panels(1)
    draw_scratch.matrices(axes, table)
    assert len(axes[0].images) == 1
    _, axes = plots.panels(3)
    draw_scratch.by_start(axes, diversity_records.numbers_of(table, 0))
    assert axes[0].get_title() == "correlation of keep ratios" and len(axes[0].lines) == 2
    _, axes = plots.panels(1)
    shown = structures().query("epoch == 0").assign(method="uniform")[["method", "layer", "width", "kept"]]
    draw_scratch.structures(axes[0], shown)
    plt.close("all")


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    places(monkeypatch, tmp_path)
    write_config(tmp_path / "config", smoke=SMOKE, paper={"networks": {}})
    config.scale._load.cache_clear()
    scratch_networks.train_images.cache_clear()
    strict = torch.are_deterministic_algorithms_enabled()
    yield tmp_path
    torch.use_deterministic_algorithms(strict)
    config.scale._load.cache_clear()
    scratch_networks.train_images.cache_clear()


@pytest.mark.slow
def test_the_whole_table_and_nothing_is_done_twice(tiny, trainings):
    first = scratch.table("smoke", 0)
    fresh = "scratch scratch-budget scratch-counted plain random uniform uniform-budget"
    assert list(first["method"]) == ["full", *fresh.split(), "l1", "slimming", "slimming-floor"]
    by = first.set_index("method")
    assert by.loc["scratch-budget", "epochs"] == 4 and by.loc["l1", "epochs"] == 2
    assert by.loc["full", "train_work"] == 3 * 2 * 64 * by.loc["full", "macs"]
    wide = cost.macs(scratch_networks.fresh("smoke", "tiny", 0, 1.5), (1, 28, 28))
    assert by.loc["scratch-counted", "search_work"] == 2 * 40 * wide  # gates are learned on the widened network
    spent = 2 * 2 * 40 * wide / by.loc["full", "train_work"]  # in epochs of the whole network
    assert spent > 0.5 and by.loc["scratch-counted", "epochs"] == round((2 - spent) / 0.5) < 4
    assert by.loc["full", "macs"] == cost.macs(scratch_networks.fresh("smoke", "tiny", 0), (1, 28, 28))
    assert (by["share"].drop("full") - 0.5).abs().max() < 0.1
    assert by["source_epochs"].drop(["full", "random", "uniform", "uniform-budget"]).isna().all()  # paper has no such
    assert by.loc["l1", "search_images"] == 64 and by.loc["uniform", "search_images"] == 0
    done = len(trainings)
    again = scratch.table("smoke", 0)
    assert len(trainings) == done
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.slow
def test_with_its_parts_made_the_whole_trains_nothing_more(tiny, trainings):
    zoo.get("tiny")
    for part in scratch.parts("smoke", 0):
        scratch.make("smoke", 0, **part)
    for part in diversity.parts_first("smoke", 0):
        diversity.make_first("smoke", 0, **part)
    done = len(trainings)
    scratch.make("smoke", 0)
    diversity.make_first("smoke", 0)
    assert len(trainings) == done > 10


def test_learning_gates_does_not_disturb_the_training(tiny, monkeypatch):
    """A network that gates were learned on in between ends as one that was left alone, and starts are its seeds."""
    kept = {}
    learn = diversity.gates_of

    def watched(scale, name, model, seed):
        kept[seed] = copy.deepcopy(state(model))
        return learn(scale, name, model, seed)

    monkeypatch.setattr(diversity, "gates_of", watched)
    found = diversity.in_training("smoke", "tiny", 1)
    assert list(dict.fromkeys(found["epoch"])) == [1, 2]
    alone = scratch_networks.fresh("smoke", "tiny", 1)
    recipe, images = scratch_networks.recipe_of("smoke", "tiny"), scratch_networks.train_images("smoke", "tiny")
    training.fit(alone, images, recipe, seed=1, device="cpu")
    assert same(kept[1], state(alone))
    assert not list((tiny / "cache").rglob("*.pt"))


def test_an_expanded_network_needs_a_width_to_expand(tiny):
    from lib.dynamic.errors import DynamicError

    networks = {**SMOKE["networks"], "bare": {**NET, "arch_args": {}, "family": "bare"}}
    write_config(tiny / "config", smoke={**SMOKE, "networks": networks})
    config.scale._load.cache_clear()
    with pytest.raises(DynamicError, match="network bare: arch_args has no width to expand"):
        scratch_networks.fresh("smoke", "bare", 0, 1.25)
    with pytest.raises(DynamicError, match="no start 'guess': one of scratch, plain"):
        scratch_networks.structure("smoke", "tiny", 0, "guess", 0.5)
