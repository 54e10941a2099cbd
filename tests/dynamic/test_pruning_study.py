"""lib.dynamic.study.pruning, its records and plots: every row of the notebook from networks that train a few steps."""

import pandas as pd
import pytest
import torch
from training_tools import TINY, write_config

from lib import plots, record
from lib.dynamic.cost import in_turns, networks_in_turns
from lib.dynamic.errors import DynamicError
from lib.dynamic.study import draw_pruning, pruning, pruning_records

ON = {"like": "dynamic-resnet", "start": {"network": "dynamic-resnet"}, "epochs": 1}
INSERT, FROZEN = "lib.dynamic.lcs.network.insert", "lib.dynamic.lcs.optimise.Frozen"


def networks():
    """Recipes of one dense network and all that the study wants beside it."""
    made = {
        "dynamic-resnet": {**TINY, "arch": "resnet20", "arch_args": {"width": 4}, "epochs": 1, "learning_rate": 0.02},
        "dynamic-resnet-on": ON,
        "dynamic-resnet-boosting-b0.5": {
            **ON,
            "transforms": [{"use": "lib.dynamic.boosting.insert", "budget": 0.5, "shape": [1, 28, 28]}],
            "hooks": [{"use": "lib.dynamic.boosting.Boost"}],
        },
    }
    for form in pruning.FORMS:
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


def configure(folder, **settings):
    """A scale whose study of dynamic pruning is tiny."""
    study = {
        "data": "mnist5k",
        "seeds": [0],
        "pruning_networks": ["dynamic-resnet"],
        "pruning_images": 60,
        "calibration_images": 60,
        "gate_epochs": 1,
        "latency_batches": [1, 8],
        "latency_seconds": 0.01,
        **settings,
    }
    compute = {"device": "cpu", "training_precision": "float32", "channels_last": False}
    write_config(folder / "config", smoke={"compute": compute, "networks": networks(), "study": {"dynamic": study}})


@pytest.mark.slow
def test_all_rows_and_what_is_made_of_them(house):
    configure(house)
    methods, stages, choices = (study("smoke", 0) for study in (pruning.methods, pruning.stages, pruning.choices))
    assert set(methods["method"]) == set(pruning_records.METHODS)
    whole = methods.set_index("method")
    assert whole.loc["dense", "share"] == whole.loc["dense-on", "share"] == 1
    for method in ("stated", "standardised", "stated-static", "standardised-static", "boosting", "l1", "scratch"):
        assert whole.loc[method, "share"] == pytest.approx(0.5, abs=0.12), method
    assert whole.loc["l1", "parameters"] < whole.loc["dense", "parameters"] < whole.loc["stated", "parameters"]
    assert (whole[["seconds_1", "seconds_8", "time_1", "time_8"]] > 0).all(axis=None)
    assert whole.loc["stated", "memory_mb"] > 0 == whole.loc["l1", "memory_mb"]

    assert list(stages["stage"]) == [*pruning.STAGES] * 2 and list(choices["choice"]) == [*pruning.CHOICES] * 2
    cut = stages.set_index(["form", "stage"])
    for form in pruning.FORMS:
        assert cut.loc[(form, "thresholded"), "zeros"] > cut.loc[(form, "trained"), "zeros"]
        assert cut.loc[(form, "thresholded"), "share"] <= 0.52

    again = pruning.methods("smoke", 0)
    pd.testing.assert_frame_equal(again, methods)  # times included: rows are kept

    numbers = pruning_records.numbers({0: methods}, {0: stages}, {0: choices})
    assert len({(n["name"], str(n["where"])) for n in numbers}) == len(numbers)
    assert all(record.number(n["name"], n["where"], {0: n["value"]}, n["unit"], n["n"]) for n in numbers)
    table = pruning_records.method_table(numbers)
    assert len(table) == 9 and table["MFLOPs"].max() == pytest.approx(2 * whole["macs"].max() / 1e6)
    texts = (
        pruning_records.methods_reading(numbers), pruning_records.choices_reading(numbers),
        pruning_records.stages_reading(numbers), pruning_records.times_reading(numbers),
        pruning_records.setting_text("smoke", [0]), pruning_records.markdown(pruning_records.stage_table(numbers)),
        pruning_records.markdown(pruning_records.choice_table(numbers)), pruning_records.markdown(table),
    )  # fmt: skip
    assert all("nan" not in text and len(text) > 40 for text in texts)
    for draw, count in ((draw_pruning.methods, 1), (draw_pruning.choices, 1), (draw_pruning.times, 2)):
        figure, axes = plots.panels(count)
        draw(axes, numbers)
        assert len(plots.render(figure, "png")) > 5000


def test_a_network_that_is_missing_is_named(house):
    configure(house, pruning_budgets=[0.25])
    with pytest.raises(DynamicError, match=r"need a network 'dynamic-resnet-stated-b0\.25'"):
        pruning.methods("smoke", 0)


def test_two_sides_are_timed_in_turns():
    order: list[tuple[str, int]] = []
    told = in_turns(lambda turn: order.append(("a", turn)), lambda turn: order.append(("b", turn)), 0.0, least=4)
    assert order[6:] == [(side, turn) for turn in range(4) for side in "ab"]
    assert told.seconds > 0 and told.share > 0


def test_networks_are_timed_in_evaluation_mode_without_gradients(one_thread):
    seen = []

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            seen.append((self.training, torch.is_grad_enabled(), images.shape[0]))
            return images * self.scale

    one, peer = Net().train(), Net()
    told = networks_in_turns(one, peer, [torch.rand(2, 1, 4, 4), torch.rand(3, 1, 4, 4)], 0.0, least=3)
    assert one.training and told.peer_seconds > 0
    assert {s[:2] for s in seen} == {(False, False)} and {s[2] for s in seen} == {2, 3}
