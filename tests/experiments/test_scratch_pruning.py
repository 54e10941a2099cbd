"""Pruning from scratch: numbers of invented rows, and every row from tiny networks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scratch_tools
from scratch_tools import FRESH_METHODS

from lib import cache, config, plots, zoo
from lib.dynamic.errors import DynamicError
from lib.experiments import scratch_pruning
from lib.experiments.dynamic import titled
from lib.experiments.run import Run
from lib.experiments.scratch_networks import METHODS, TRAINED, ScratchRun, Settings

tiny = scratch_tools.tiny
pytestmark = pytest.mark.usefixtures("one_thread")


def rows(seed: int = 0, networks=("one", "two"), same=()) -> list[dict[str, Any]]:
    """Rows as `ScratchRun.rows` has them, from scratch a point ahead of all; `same`: networks whose slimmed structure
    is the one with a floor."""
    made = []
    for network in networks:
        for place, method in enumerate(METHODS):
            whole = method == "full"
            row: dict[str, Any] = {"network": network, "method": method, "budget": 1.0 if whole else 0.5, "n": 500}
            row["accuracy"] = 0.9 if whole else 0.8 + 0.01 * method.startswith("scratch") + 0.001 * seed
            row |= {"parameters": 1000, "macs": 10000 if whole else 5000, "share": 1.0 if whole else 0.5}
            row |= {"train_seconds": 8.0, "train_images": 400, "epochs": 4}
            row |= {"search_seconds": 1.0 + place, "search_images": 100 * (not whole)}
            row |= {"train_work": 3 * 400 * row["macs"], "search_work": 2 * 100 * 15000 * (not whole)}
            row |= {"source_epochs": 10 if method.startswith("scratch") else 80}
            row |= {"zeros": 0.3, "mean_gate": 0.4, "rule": "most zeros"} if method == "scratch" else {}
            row |= {"same_as": "slimming" if network in same else None} if method == "slimming-floor" else {}
            made.append(row | {"latency": {1: 0.002 if whole else 0.0012, 64: 0.001 if whole else 0.0006}})
    return made


def results(item: str, of_seed=rows, seeds=(0, 1, 2)):
    """An item's results, measured on invented rows."""

    def measure(settings, seed):
        found = of_seed(seed)
        if item == "PRUNING":
            return Run(settings, seed).tidy(n for row in found for n in scratch_pruning.accuracy_rows(row))
        return Run(settings, seed).tidy(n for row in found for n in scratch_pruning.cost_rows(row, 3 * 400 * 10000))

    return replace(getattr(scratch_pruning, item), measure=measure).of(Settings.of("smoke", seeds=list(seeds)))


def test_accuracy_size_and_latency():
    found = results("PRUNING")
    scratch = found.values("accuracy", network="one", method="scratch").iloc[0]
    assert scratch["value"] == pytest.approx(0.811) and scratch["seeds"] == 3 and scratch["n"] == 500
    assert found.value("flops", network="one", method="l1") == 10000
    assert found.value("latency", network="one", method="full", batch=1) == pytest.approx(2.0)
    assert set(found.values("zero_gates")["method"]) == {"scratch"}
    assert found.value("most_zeros", network="two") == 1
    assert list(found.table["method"]) == [*METHODS.values()] * 2
    assert found.table["ms an image, batch 64"].iloc[:2].tolist() == pytest.approx([1.0, 0.6])


def test_what_is_spent():
    found = results("COST")
    assert found.value("total_seconds", network="one", method="scratch") == pytest.approx(10)
    at_source = found.values("search_at_source", network="one").set_index("method")["value"]
    assert at_source["scratch"] == pytest.approx(1e3 * 2 / 100 * 10) and "full" not in at_source
    work = found.values("training_work", network="one").set_index("method")["value"]
    assert work["full"] == 1
    assert work["scratch"] == pytest.approx((3 * 400 * 5000 + 2 * 100 * 15000) / (3 * 400 * 10000))
    assert found.value("search_work", network="one", method="scratch") == pytest.approx(0.25)
    assert len(found.table) == 2 * len(METHODS)


@pytest.mark.parametrize("item", ["PRUNING", "COST"])
def test_a_structure_found_twice_stands_once(item):
    """A method whose structure is another's for every seed is left out; one that differs once is kept."""
    found = results(item, lambda seed: rows(seed, same=["one", "two"] if seed == 0 else ["one"]), seeds=(0, 1))
    assert len(found.table) == 2 * len(METHODS) - 1
    floors = found.table[found.table["method"] == METHODS["slimming-floor"]]
    assert floors["network"].tolist() == ["two"]
    shown = [text.get_text() for ax in found.figure.axes for text in ax.texts if "same" in text.get_text()]
    assert shown == ["one: the same structure" if item == "PRUNING" else "the same\nstructure"]


def test_a_network_of_one_seed_says_so():
    def of_seed(seed):
        return rows(seed, ("one", "two") if seed == 0 else ("one",))

    (legend,) = results("PRUNING", of_seed).figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two, one seed"]
    assert [ax.get_title() for ax in results("COST", of_seed).figure.axes] == ["one", "two, one seed"]


def test_leads_are_over_the_seeds_of_both():
    one = results("PRUNING").values("accuracy", network="one")
    assert scratch_pruning.lead(one, "scratch", "uniform") == "+1.0 (+1.0 to +1.0)"
    assert scratch_pruning.lead(one, "l1", "uniform") == "+0.0 (+0.0 to +0.0)"
    alone = results("PRUNING", seeds=(0,)).values("accuracy", network="one")
    assert scratch_pruning.lead(alone, "scratch", "uniform") == "+1.0"


def test_the_figure_shows_leads_over_uniform_narrowing_and_one_far_off_in_its_own_part_of_the_axis():
    def drawn(off):
        def of_seed(seed):
            found = rows(seed)
            for row in found:
                row["accuracy"] -= 0.08 * (row["method"] == "full")
                row["accuracy"] -= off * (row["method"] == "slimming" and row["network"] == "two")
            return found

        return results("PRUNING", of_seed).figure.axes

    axes = drawn(0.5)
    assert len(axes) == 4 and len(drawn(0.01)) == 2
    shown = [
        np.concatenate([line.get_xdata() for line in ax.get_lines() if line.get_marker() in plots.MARKERS[:2]])
        for ax in axes
    ]
    assert sorted({round(lead, 6) for lead in shown[3]}) == [-50, 0, 1, 1.9]
    for far, near in (axes[:2], axes[2:]):
        assert far.get_xlim()[0] < -50 < far.get_xlim()[1] < near.get_xlim()[0] < 0 < 2 < near.get_xlim()[1]


@pytest.mark.slow
def test_every_row_and_nothing_is_done_twice(tiny, trainings):
    settings = Settings.of("smoke")
    run = ScratchRun(settings, 0)
    first = list(run.rows())
    assert [row["method"] for row in first] == ["full", *FRESH_METHODS, *TRAINED]
    by = {row["method"]: row for row in first}
    assert by["scratch-budget"]["epochs"] == 4 and by["l1"]["epochs"] == 2
    assert by["full"]["train_work"] == 3 * 2 * 64 * by["full"]["macs"]
    wide = run.macs("tiny", 1.5)
    assert by["scratch-counted"]["search_work"] == 2 * 40 * wide  # gates are learned on the widened network
    spent = 2 * 2 * 40 * wide / by["full"]["train_work"]  # in epochs of the whole network
    assert spent > 0.5 and by["scratch-counted"]["epochs"] == round((2 - spent) / 0.5) < 4
    assert by["full"]["macs"] == run.macs("tiny") < wide
    assert all(abs(row["share"] - 0.5) < 0.1 for row in first[1:])
    assert by["l1"]["source_epochs"] is by["scratch"]["source_epochs"] is None  # paper has no such network
    assert by["l1"]["search_images"] == 64 and by["uniform"]["search_images"] == 0
    done = len(trainings)
    with cache.only_kept():
        assert [row["accuracy"] for row in ScratchRun(settings, 0).rows()] == [row["accuracy"] for row in first]
        found = scratch_pruning.PRUNING.of(settings)
        for figure in (found.figure, scratch_pruning.draw_structures(settings, 0)):
            assert len(plots.render(figure, "png")) > 5000
    assert len(trainings) == done


@pytest.mark.slow
def test_gates_in_full_see_all_images(tiny):
    few, full = (ScratchRun(Settings.of("smoke", gates_in_full=names), 0) for names in ([], ["tiny"]))
    assert (few.gate_images("tiny"), full.gate_images("tiny")) == (40, 64)
    assert few.gate_key("tiny") != full.gate_key("tiny")
    with pytest.raises(ValueError, match="other"):
        Settings.of("smoke", gates_in_full=["other"])


@pytest.mark.slow
def test_with_its_parts_made_the_whole_trains_nothing_more(tiny, trainings):
    zoo.get("tiny")
    for part in scratch_pruning.parts("smoke", 0):
        scratch_pruning.make("smoke", 0, **part)
    done = len(trainings)
    scratch_pruning.make("smoke", 0)
    assert len(trainings) == done > 10


def test_an_expanded_network_needs_a_width_to_expand(tiny):
    scratch_tools.reconfigure(tiny, bare={**scratch_tools.NET, "arch_args": {}, "family": "bare"})
    run = ScratchRun(Settings.of("smoke"), 0)
    with pytest.raises(DynamicError, match="network bare: arch_args has no width to expand"):
        run.fresh("bare", 1.25)
    with pytest.raises(DynamicError, match="no start 'guess': one of scratch, plain"):
        run.structure("tiny", "guess", 0.5)


def test_a_network_is_shown_in_words_on_short_lines():
    assert titled("scratch-vgg16") == "VGG16" and titled("scratch-mobilenet-v1") == "MobileNet v1"
    lines = titled("dynamic-resnet-standardised-b0.5", width=22).splitlines()
    assert " ".join(lines) == "ResNet, standardised, at 0.5 of the FLOPs" and max(map(len, lines)) <= 22


def test_networks_that_are_missing_are_named_before_anything_runs(tiny):
    scratch_tools.reconfigure(tiny, bare={**scratch_tools.NET, "family": "bare"})
    with pytest.raises(config.ConfigError, match=r"networks .* needs a network 'bare-half'"):
        Settings.of("smoke", networks=["bare"])
