"""Pruned and protected networks of a scale: computed once, resumed, and summed up as the records say."""

import copy

import pandas as pd
import pytest
import torch

from lib import config, data, evaluations
from lib.slicing import masks, protection, pruning
from lib.slicing.study import draw_pruning, evaluation, protection_records, pruning_records
from lib.slicing.study import protection as evaluate_protection
from lib.slicing.study import pruning as evaluate_pruning
from slicing.pruning_nets import mean_inputs, random_scores

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: resnet10-preact, arch_args: {width: 2, normalise: false}, data: mnist5k, epochs: 1, batch: 50,
    train_limit: 300, learning_rate: 0.05, family: tiny}
study:
  nnslicer: {data: mnist5k, network: tiny, seeds: [0], prune_subsets: 3, prune_ratios: [0.3, 0.6], closer_subsets: 2,
    prune_test_images: 60, finetune_subsets: 1, finetune_ratios: [0.5], finetune_images: 100, finetune_batch: 50,
    protect_subsets: 2, protect_images: [50, 100], protect_epochs: 2, protect_batch: 50, protect_sweep: [0.1, 0.5],
    protect_sweep_images: 50, protect_sweep_subsets: 1, protect_sweep_seeds: 1}
"""


class Profile:
    """Means of a network over some training images."""

    def __init__(self, model):
        self.means = mean_inputs(model, data.load("mnist5k", "train").images[:50])

    def input_mean(self, layer):
        return self.means[layer]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Configuration, cache and results that the tests of this file share."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "config").mkdir()
    for name in ("smoke", "paper"):
        (folder / "config" / f"{name}.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def scale(house, monkeypatch, one_thread):
    for name in ("config", "cache", "results"):
        monkeypatch.setenv(f"NEURONS_{name.upper()}", str(house / name))
    for function in (evaluate_pruning.bench, evaluate_pruning.scores_of, evaluate_protection._said):
        function.cache_clear()
    strict = torch.are_deterministic_algorithms_enabled()
    shared = {m: random_scores(evaluation.network_of("smoke", 0), 10, 9, k) for k, m in enumerate(pruning.OF_CLASSES)}
    monkeypatch.setattr(evaluation, "scores_of", lambda scale, seed, method: shared[method])
    monkeypatch.setattr(evaluation, "profile_of", lambda scale, seed: Profile(evaluation.network_of(scale, seed)))
    monkeypatch.setattr(evaluate_pruning, "CHUNK", 2)
    yield "smoke"
    torch.use_deterministic_algorithms(strict)


def never(*_, **__):
    raise AssertionError("computed twice")


def test_pruned_networks_are_those_of_each_subset(scale, monkeypatch):
    frame = evaluate_pruning.pruned(scale, 0)
    assert frame.columns.tolist() == evaluate_pruning.COLUMNS
    wanted = masks.subsets(count=3)
    assert len(frame) == 4 * 3 * 2 * 3 and not frame.duplicated(["method", "ratio", "compensation", "classes"]).any()
    assert set(frame["classes"]) == {evaluate_pruning.name_of(classes) for classes in wanted}

    at = evaluate_pruning.bench(scale, 0)
    test = evaluations.test_images("mnist5k", 60)
    classes = wanted[-1]
    inside = torch.isin(test.labels, torch.tensor(classes))
    for method in pruning.METHODS:
        model = copy.deepcopy(evaluation.network_of(scale, 0))
        if method == "channel":
            chosen = masks.channel_masks(model, 0.6)
        elif method == "weight":
            chosen = masks.masks_of(masks.ranking(masks.weight_scores(model)), 0.6)
        else:
            summed = masks.subset_scores(evaluation.scores_of(scale, 0, method), classes)
            chosen = masks.masks_of(masks.ranking(summed), 0.6)
        masks.apply(model, chosen)
        for compensation in (False, True):
            with torch.no_grad(), pruning.centred(model, at.means if compensation else None):
                right = int((model(test.float(index=inside)).argmax(dim=1) == test.labels[inside]).sum())
            row = frame[
                (frame["method"] == method)
                & (frame["ratio"] == 0.6)
                & (frame["compensation"] == compensation)
                & (frame["classes"] == evaluate_pruning.name_of(classes))
            ]
            assert (row["right"].item(), row["n"].item()) == (right, 24), (method, compensation)
    dense = frame[frame["ratio"] == 0]
    assert dense.groupby("classes")["right"].nunique().eq(1).all()

    monkeypatch.setattr(evaluate_pruning, "correct_by_class", never)
    assert evaluate_pruning.pruned(scale, 0).equals(frame)
    with pytest.raises(AssertionError, match="computed twice"):
        evaluate_pruning.ties_by_weight(scale, 0)


def test_a_run_that_was_stopped_goes_on(scale, monkeypatch, tmp_path):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    count = evaluate_pruning.correct_by_class
    done = []
    # The dense network; two ratios of Weight and Channel on all images; NNSlicer's first two subsets, kept together.
    kept = 2 + 2 * 4 + 2 * 4

    def stops(model, bank, *rest, **more):
        done.append(len(bank.labels))
        if len(done) == kept + 3:
            raise KeyboardInterrupt
        return count(model, bank, *rest, **more)

    monkeypatch.setattr(evaluate_pruning, "correct_by_class", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate_pruning.pruned(scale, 0)
    done.extend([0] * 1000)
    evaluate_pruning.pruned(scale, 0)
    assert len(done) - 1000 - (kept + 3) == 2 + 2 * 4 + 2 * 3 * 4 - kept


def test_pruning_numbers_ties_and_records(scale):
    frames = {0: evaluate_pruning.pruned(scale, 0)}
    ties = {0: evaluate_pruning.ties_by_weight(scale, 0)}
    checks = {0: evaluate_pruning.precision(scale, 0)}
    assert set(ties[0]["method"]) == set(pruning.OF_CLASSES) and ties[0]["classes"].nunique() == 2
    assert (checks[0]["same"] == 1).all() and (checks[0]["gap"] == 0).all()  # the scale's precision is float32
    others = evaluate_pruning.on_other_classes(scale, 0)
    assert set(others["n"]) == {36} and others["classes"].nunique() == 2
    # Weight's networks are the same for every subset: target and other classes together are all classes.
    both = pd.concat([frames[0], others])
    both = both[(both["method"] == "weight") & both["classes"].isin(others["classes"])]
    sums = both.groupby(["ratio", "compensation", "classes"])[["right", "n"]].sum()
    assert (sums["n"] == 60).all() and (sums.groupby(["ratio", "compensation"])["right"].nunique() == 1).all()
    numbers = pruning_records.pruning_numbers(frames, checks, ties, {0: others})
    rows = evaluations.frame(numbers, method="weight", ratio=0.6, compensation=False)
    table = frames[0]
    part = table[(table["method"] == "weight") & (table["ratio"] == 0.6) & ~table["compensation"]]
    assert rows["value"].item() == pytest.approx((part["right"] / part["n"]).mean())
    assert rows["n"].item() == 6 * len({k for classes in part["classes"] for k in classes.split()})
    for text in (
        pruning_records.pruning_reading(numbers),
        pruning_records.tie_reading(numbers),
        pruning_records.sacrifice_reading(numbers),
        pruning_records.precision_reading(numbers),
        pruning_records.compensation_reading(numbers),
        pruning_records.pruning_setting(scale, [0], numbers, frames),
        pruning_records.markdown(pruning_records.pruning_table(numbers)),
    ):
        assert "nan" not in text.lower()

    tuned = evaluate_pruning.fine_tuned(scale, 0)
    assert len(tuned) == 4 * 2 * 2 and tuned["ratio"].unique().tolist() == [0.0, 0.5]
    assert evaluate_pruning.fine_tuned(scale, 0).equals(tuned)


def frame_of(*rows):
    columns = ["method", "ratio", "compensation", "classes", "right", "n"]
    return pd.DataFrame(rows, columns=columns).assign(by_position=None)


def test_views_and_the_share_of_subsets():
    """NNSlicer counts as the best where it alone is; the released view mixes compensation."""
    rows = []
    for compensation, scores in (
        (False, {"nnslicer": (5, 7), "effective-path": (4, 7), "weight": (4, 6), "channel": (1, 1)}),
        (True, {"nnslicer": (6, 8), "effective-path": (5, 5), "weight": (9, 9), "channel": (2, 2)}),
    ):
        for method, (first, second) in scores.items():
            rows += [[method, 0.5, compensation, "0 1", first, 10], [method, 0.5, compensation, "0 2", second, 10]]
    numbers = pruning_records.pruning_numbers({0: frame_of(*rows)})
    shares = evaluations.frame(numbers, "best_share").set_index("view")["value"].to_dict()
    assert shares == {"as it is": 0.5, "centred": 0.0, "as released": 1.0}
    mean = evaluations.frame(numbers, method="nnslicer", compensation=True)
    assert mean["value"].item() == 0.7 and mean["n"].item() == 15  # five images of each of three classes
    with pytest.raises(ValueError, match="no view 'other'"):
        pruning_records.viewed(frame_of(*rows), "other")


def test_protected_networks_are_attacked_once(scale, monkeypatch):
    frame = evaluate_protection.protected(scale, 0)
    assert len(frame) == 2 * 4 * 2 * 2 * 3  # images, methods, target subsets, target or all, epochs from 0
    assert set(frame["epoch"]) == {0, 1, 2}
    at = evaluate_pruning.bench(scale, 0)
    one = evaluate_protection.target_subsets(scale)[0]
    summed = masks.subset_scores(evaluation.scores_of(scale, 0, "nnslicer"), one)
    model = masks.apply(copy.deepcopy(at.model), protection.hidden_masks(at.model, summed, 0.5))
    right = pruning.correct_by_class(model, at.bank, 10, precision="float32")
    row = frame[(frame["method"] == "nnslicer") & (frame["epoch"] == 0) & (frame["images"] == 50)]
    row = row[row["target"] == evaluate_pruning.name_of(one)].set_index("classes")["right"]
    assert row.to_dict() == {"target": int(right[list(one)].sum()), "all": int(right.sum())}

    sweep = evaluate_protection.protected(scale, 0, sweep=True)
    assert sweep["target"].nunique() == 1 and sorted(sweep["share_hidden"].unique()) == [0.1, 0.5]
    assert evaluate_protection.sweep_seeds(scale, [3, 1, 2]) == [3]

    victims = {0: evaluate_protection.victim(scale, 0)}
    visible = evaluate_protection.visible(scale, 0)
    assert len(visible) == 2 + 2 * 2 and visible["norm"].between(0, 1).all()
    assert visible.set_index("method")["by_position"][["weight", "random"]].eq(0).all()
    numbers = protection_records.numbers_of({0: frame}, victims, {0: sweep}, {0: visible})
    for text in (
        protection_records.reading(numbers),
        protection_records.sweep_reading(numbers),
        protection_records.visible_reading(numbers),
        protection_records.setting(scale, [0], numbers),
    ):
        assert "nan" not in text.lower()
    assert len(protection_records.table_of(numbers)) == 2 * 4 * 2

    monkeypatch.setattr(protection, "retrain", never)
    assert evaluate_protection.protected(scale, 0).equals(frame)
    evaluate_protection.make(scale, 0)


def test_what_hiding_leaves_is_set_beside_what_the_attacker_ends_with():
    """Of six pairs of methods, those in which less of the norm goes with a better recovery are counted."""
    ends = {"weight": (0.1, 0.5), "nnslicer": (0.2, 0.6), "effective-path": (0.3, 0.4), "random": (0.5, 0.7)}
    rows = []
    for method, (norm, accuracy) in ends.items():
        about = {"n": 100, "seed": 0, "method": method}
        rows.append({"name": "visible_norm", "value": norm, "unit": "fraction of the squared norm", **about})
        rows.append({"name": "by_position", "value": 0.0, "unit": "fraction of hidden weights", **about})
        where = {"images": 10, "share_hidden": 0.5, "classes": "target", "epoch": "last"}
        rows.append({"name": "accuracy", "value": accuracy, "unit": evaluations.SHARE, **about, **where})
    told = protection_records.visible_reading(evaluations.numbers(rows))
    assert "Weight 10 %, NNSlicer 20 %, EffectivePath 30 %, Random 50 %" in told
    # Better from less: Weight and NNSlicer against EffectivePath.
    assert told.endswith(
        "Of 6 pairs of methods, the attacker recovers better from the one that leaves less of the norm in 2."
    )


def test_last_and_best_epochs():
    """The best epoch is each target subset's own; then the mean over subsets."""
    rows = [("a", 0, 1), ("a", 1, 8), ("a", 2, 6), ("b", 0, 3), ("b", 1, 2), ("b", 2, 4)]
    group = pd.DataFrame(rows, columns=["target", "epoch", "right"]).assign(n=10)
    found = protection_records.ends(group)
    assert found == pytest.approx({"hidden": 0.2, "last": 0.5, "best": 0.6})


def test_figures_draw(scale):
    from lib import plots

    frames = {0: evaluate_pruning.pruned(scale, 0)}
    numbers = pruning_records.pruning_numbers(frames, None, {0: evaluate_pruning.ties_by_weight(scale, 0)})
    figure, axes = plots.panels(3)
    draw_pruning.pruning(axes, numbers)
    assert [len(ax.get_lines()) for ax in axes] == [6] * 3  # four methods, two lines of guessing
    figure, axes = plots.panels(2)
    draw_pruning.ties(axes, numbers)
    assert [len(ax.get_lines()) for ax in axes] == [6] * 2
    figure, axes = plots.panels(3)
    draw_pruning.leads(axes, frames)
    assert [len(ax.get_lines()) for ax in axes] == [4] * 3
    assert plots.render(figure, "png")


def test_settings_of_the_paper_are_the_specs():
    """The paper scale leaves these out, so that the defaults are what it runs."""
    chosen = evaluate_pruning.settings("paper")
    assert chosen["prune_subsets"] is None and chosen["finetune_subsets"] is None
    assert chosen["prune_ratios"] == chosen["finetune_ratios"] == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert (chosen["finetune_images"], chosen["finetune_batch"], chosen["subset_size"]) == (10000, 256, 4)
    chosen = evaluate_protection.settings("paper")
    assert (chosen["protect_images"], chosen["protect_epochs"]) == ([10000, 20000], 10)
    assert (chosen["protect_batch"], chosen["protect_share"]) == (256, 0.5)
    assert chosen["protect_sweep"] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert config.load("paper").study["nnslicer"]["data"] == "cifar10"
