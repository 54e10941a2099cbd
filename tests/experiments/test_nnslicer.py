"""Pruning and protection by slices: against brute force on a tiny network, kept, resumed, and summed up."""

import copy

import pandas as pd
import pytest
import torch
from slicing.pruning_nets import mean_inputs, random_scores

from lib import config, data, permission, recipes, zoo
from lib.experiments import nnslicer_protection, nnslicer_pruning
from lib.experiments.nnslicer import SlicingRun, name_of
from lib.experiments.nnslicer_protection import Attack, ProtectionRun
from lib.experiments.nnslicer_pruning import PruningRun
from lib.slicing import masks, protection, pruning

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: resnet10-preact, arch_args: {width: 2, normalise: false}, data: mnist5k, epochs: 1, batch: 50,
    train_limit: 300, learning_rate: 0.05, family: tiny}
study:
  nnslicer:
    data: mnist5k
    network: tiny
    seeds: [0]
    pruning: {subsets: 3, ratios: [0.3, 0.6], closer_subsets: 2, test_images: 60, finetune_subsets: 1,
      finetune_ratios: [0.5], finetune_images: 100, finetune_batch: 50}
    protection: {test_images: 60, subsets: 2, images: [50, 100], epochs: 2, batch: 50, sweep_shares: [0.1, 0.5],
      sweep_images: 50, sweep_subsets: 1, sweep_seeds: 1}
"""


class Profile:
    """Means of a network over some training images."""

    def __init__(self, model):
        self.means = mean_inputs(model, data.load("mnist5k", "train").images[:50])

    def input_mean(self, layer):
        return self.means[layer]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Configuration, cache and results that the tests of this file share."""
    folder = tmp_path_factory.mktemp("nnslicer")
    (folder / "config").mkdir()
    for source in (config.ROOT / "config").glob("*.yaml"):
        (folder / "config" / source.name).write_text(source.read_text())
    for name in ("smoke", "paper"):
        (folder / "config" / f"{name}.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(autouse=True)
def network(places, monkeypatch, one_thread):
    """The tiny network; its scores have many ties, and come at once."""
    for name in ("config", "cache", "results"):
        monkeypatch.setenv(f"NEURONS_{name.upper()}", str(places / name))
    strict = torch.are_deterministic_algorithms_enabled()
    with permission.asked():
        model = zoo.get("tiny", "smoke", 0)
    shared = {method: random_scores(model, 10, 9, k) for k, method in enumerate(pruning.OF_CLASSES)}
    monkeypatch.setattr(SlicingRun, "scores", lambda self, method="nnslicer": shared[method])
    monkeypatch.setattr(SlicingRun, "profile", lambda self, network=None: Profile(model))
    monkeypatch.setattr(nnslicer_pruning, "CHUNK", 2)
    yield model
    torch.use_deterministic_algorithms(strict)


def pruning_run():
    return PruningRun(nnslicer_pruning.Settings.of("smoke"), 0)


def protection_run():
    return ProtectionRun(nnslicer_protection.Settings.of("smoke"), 0)


def never(*_, **__):
    raise AssertionError("computed twice")


def by_hand(run, method, ratio, classes, compensation):
    """Right decisions of one pruned network on the images of some classes."""
    test = run.images("test", 60)
    inside = torch.isin(test.labels, torch.tensor(classes))
    model = copy.deepcopy(run.model)
    if method == "channel":
        chosen = masks.channel_masks(model, ratio)
    elif method == "weight":
        chosen = masks.masks_of(masks.ranking(masks.weight_scores(model)), ratio)
    else:
        chosen = masks.masks_of(masks.ranking(masks.subset_scores(run.scores(method), classes)), ratio)
    masks.apply(model, chosen)
    with torch.no_grad(), pruning.centred(model, run.means if compensation else None):
        return int((model(test.float(index=inside)).argmax(dim=1) == test.labels[inside]).sum()), int(inside.sum())


@pytest.mark.parametrize("compensation", [False, True])
def test_the_accuracy_of_pruned_networks_is_the_mean_over_the_subsets(compensation):
    run = pruning_run()
    frame = nnslicer_pruning.pruned(run.settings, 0)
    wanted = run.subsets()
    assert len(wanted) == 3
    rows = frame[(frame["measure"] == "accuracy") & (frame["compensation"] == compensation)]
    assert len(rows) == 4 * 3  # methods, ratios with that of nothing dropped
    for method in pruning.METHODS:
        for ratio in (0.3, 0.6):
            pairs = [by_hand(run, method, ratio, classes, compensation) for classes in wanted]
            row = rows[(rows["method"] == method) & (rows["ratio"] == ratio)]
            assert row["value"].item() == pytest.approx(sum(right / n for right, n in pairs) / 3)
            assert row["n"].item() == 6 * len({k for classes in wanted for k in classes})
    assert rows[rows["ratio"] == 0]["value"].nunique() == 1


def test_the_lead_and_the_best_share_are_taken_subset_by_subset():
    run = pruning_run()
    frame = nnslicer_pruning.pruned(run.settings, 0)
    found = {
        method: [by_hand(run, method, 0.6, classes, False)[0] / 24 for classes in run.subsets()]
        for method in pruning.METHODS
    }
    at = frame[(frame["ratio"] == 0.6) & (frame["view"] == "as it is")]
    median = at[(at["measure"] == "lead") & (at["method"] == "weight") & (at["quantile"] == 0.5)]["value"].item()
    assert median == pytest.approx(sorted(a - b for a, b in zip(found["nnslicer"], found["weight"], strict=True))[1])
    alone = [own > max(rest) for own, *rest in zip(*found.values(), strict=True)]
    assert at[at["measure"] == "best_share"]["value"].item() == pytest.approx(sum(alone) / 3)


def test_one_precision_decides_like_itself_and_all_classes_are_target_and_other():
    run = pruning_run()
    frame = nnslicer_pruning.pruned(run.settings, 0)
    assert (frame[frame["measure"] == "same_decisions"]["value"] == 1).all()  # the scale's precision is float32
    near = run.subsets("closer_subsets")
    assert len(near) == 2 and set(near) <= set(run.subsets())
    rows = frame[(frame["measure"] == "accuracy_by_classes") & (frame["method"] == "weight") & (frame["ratio"] == 0.6)]
    rows = rows[~rows["compensation"].astype(bool)].set_index("classes")["value"]
    right = run.by_class("weight", [0.3, 0.6])
    right = right[(right["ratio"] == 0.6) & ~right["compensation"]]["right"].sum()
    assert 24 * rows["target"] + 36 * rows["other"] == pytest.approx(right)


@pytest.mark.parametrize(
    "table",
    [
        lambda run: run.by_class("weight", [0.3, 0.6]),
        lambda run: run.of_subsets("nnslicer", run.subsets()),
        lambda run: run.of_subsets("effective-path", run.subsets(), ties="weight", others=True),
        lambda run: run.tuned("nnslicer", run.subsets()[0], [0.5]),
        lambda run: run.agreement(),
    ],
)
def test_networks_are_centred_by_the_means_of_the_unpruned_one_whatever_is_made_first(monkeypatch, tmp_path, table):
    """As in a run that goes on, in which the tables before this one are kept."""
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    run, asked = pruning_run(), []
    whole = copy.deepcopy(run.model.state_dict())
    centres = nnslicer_pruning.centres

    def watched(model, means):
        asked.append(all(torch.equal(value, whole[name]) for name, value in model.state_dict().items()))
        return centres(model, means)

    monkeypatch.setattr(nnslicer_pruning, "centres", watched)
    frame = table(run)
    assert asked == [True] and frame["compensation"].astype(bool).any()


def test_pruned_networks_are_kept_and_a_run_that_was_stopped_goes_on(monkeypatch, tmp_path):
    settings = nnslicer_pruning.Settings.of("smoke")
    once = nnslicer_pruning.pruned(settings, 0)
    count = nnslicer_pruning.correct_by_class
    monkeypatch.setattr(nnslicer_pruning, "correct_by_class", never)
    assert nnslicer_pruning.pruned(settings, 0).equals(once)
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    done = []
    # The dense network; two ratios of Weight and Channel on all images; NNSlicer's first two subsets, kept together.
    kept = 2 + 2 * 4 + 2 * 4
    closer = 2 * 2 * 2 * 4  # two methods, two subsets, ties and other classes, two ratios with and without compensation

    def stops(model, bank, *rest, **more):
        done.append(len(bank.labels))
        if len(done) == kept + 3:
            raise KeyboardInterrupt
        return count(model, bank, *rest, **more)

    monkeypatch.setattr(nnslicer_pruning, "correct_by_class", stops)
    with pytest.raises(KeyboardInterrupt):
        nnslicer_pruning.pruned(settings, 0)
    done.extend([0] * 1000)
    assert nnslicer_pruning.pruned(settings, 0).equals(once)
    assert len(done) - 1000 - (kept + 3) == 2 + 2 * 4 + 2 * 3 * 4 - kept + closer


def test_fine_tuned_networks(monkeypatch):
    settings = nnslicer_pruning.Settings.of("smoke")
    frame = nnslicer_pruning.fine_tuned(settings, 0)
    rows = frame[frame["measure"] == "accuracy"]
    assert len(rows) == 4 * 2 * 2 and sorted(rows["ratio"].unique()) == [0.0, 0.5]
    monkeypatch.setattr(nnslicer_pruning, "fine_tune", never)
    assert nnslicer_pruning.fine_tuned(settings, 0).equals(frame)
    assert settings.described(("finetune_subsets",)) == {"subsets of classes": 1}


def test_views_set_the_methods_beside_each_other():
    """NNSlicer counts as the best where it alone is; the released view mixes compensation."""
    rows = []
    for compensation, scores in (
        (False, {"nnslicer": (5, 7), "effective-path": (4, 7), "weight": (4, 6), "channel": (1, 1)}),
        (True, {"nnslicer": (6, 8), "effective-path": (5, 5), "weight": (9, 9), "channel": (2, 2)}),
    ):
        for method, (first, second) in scores.items():
            rows += [[method, 0.5, compensation, "0 1", first, 10, None]]
            rows += [[method, 0.5, compensation, "0 2", second, 10, None]]
    table = pd.DataFrame(rows, columns=nnslicer_pruning.COLUMNS)
    shares = {row["view"]: row["value"] for row in nnslicer_pruning._beside(table) if row["measure"] == "best_share"}
    assert shares == {"as it is": 0.5, "centred": 0.0, "as released": 1.0}
    (mean,) = [
        row
        for row in nnslicer_pruning.mean_accuracies("accuracy", table)
        if row["method"] == "nnslicer" and row["compensation"]
    ]
    assert mean["value"] == 0.7 and mean["n"] == 15  # five images of each of three classes


def test_an_attack_is_counted_class_by_class_and_done_once(monkeypatch):
    run = protection_run()
    target = run.targets()[0]
    for method in ("nnslicer", "random"):
        counts = run.attacked(Attack(method, target if method == "nnslicer" else None, 50, 0.5))
        scores = run.by(method, target if method == "nnslicer" else None)
        model = masks.apply(copy.deepcopy(run.model), protection.hidden_masks(run.model, scores, 0.5))
        right = pruning.correct_by_class(model, run.bank, 10, precision="float32")
        assert counts[counts["epoch"] == 0]["right"].tolist() == right.tolist()
        assert set(counts["epoch"]) == {0, 1, 2} and set(counts["n"]) == {6}
    frame = nnslicer_protection.protected(run.settings, 0)
    rows = frame[(frame["measure"] == "accuracy_by_epoch") & (frame["method"] == "random") & (frame["epoch"] == 0)]
    rows = rows[(rows["images"] == 50) & (rows["target"] == name_of(target))].set_index("classes")["value"]
    assert rows.to_dict() == {"target": int(right[list(target)].sum()) / 24, "all": int(right.sum()) / 60}
    assert len(frame[frame["measure"] == "accuracy"]) == 9 * 2 * 3  # methods at each count of images; classes; epochs
    monkeypatch.setattr(nnslicer_protection, "retrain", never)
    assert nnslicer_protection.protected(run.settings, 0).equals(frame)


def test_random_masks_have_nothing_to_do_with_the_victim_s_first_weights():
    run = protection_run()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        first = protection.convolutions(recipes.fresh(run.preset.recipe(run.settings.network)))
    for name, scores in run.by("random", None).items():
        both = torch.stack([scores.flatten(), first[name].weight.detach().flatten()])
        assert abs(float(both.corrcoef()[0, 1])) < 4 / scores.numel() ** 0.5, name


def test_the_sweep_is_of_the_first_seeds_and_subsets():
    settings = nnslicer_protection.Settings.of("smoke", seeds=[1, 0])
    assert settings.told("sweep_seeds") == 1 and settings.told("sweep_subsets") == 1 and settings.told("subsets") == 2
    frame = nnslicer_protection.protected(settings, 0)
    assert "sweep_accuracy" not in set(frame["measure"])
    frame = nnslicer_protection.protected(protection_run().settings, 0)
    rows = frame[frame["measure"] == "sweep_accuracy"]
    assert sorted(rows["share_hidden"].unique()) == [0.1, 0.5] and len(rows) == 2 * 4 * 2 * 3
    assert set(rows[rows["classes"] == "target"]["n"]) == {24}


def test_what_the_victim_knows_and_what_hiding_leaves():
    run = protection_run()
    frame = nnslicer_protection.protected(run.settings, 0)
    right = pruning.correct_by_class(run.model, run.bank, 10, precision="float32")
    victim = frame[frame["measure"] == "victim_accuracy"].set_index("classes")["value"]
    assert victim["all"] == int(right.sum()) / 60
    assert victim["target"] == pytest.approx(
        sum(int(right[list(target)].sum()) / 24 for target in run.targets()) / len(run.targets())
    )
    norms = frame[frame["measure"] == "visible_norm"].set_index("method")["value"]
    ties = frame[frame["measure"] == "by_position"].set_index("method")["value"]
    assert norms.between(0, 1).all() and norms.idxmin() == "weight"
    assert (ties[["weight", "random"]] == 0).all() and (ties[list(protection.OF_CLASSES)] > 0).all()


def test_last_and_best_epochs():
    """The best epoch is each target subset's own; then the mean over subsets."""
    rows = [("0 1", 0, 1), ("0 1", 1, 8), ("0 1", 2, 6), ("0 2", 0, 3), ("0 2", 1, 2), ("0 2", 2, 4)]
    attacks = pd.DataFrame(rows, columns=["target", "epoch", "right"])
    attacks = attacks.assign(n=10, method="nnslicer", images=100, share_hidden=0.5, classes="target")
    found = list(nnslicer_protection._ends("accuracy", attacks))
    assert {row["epoch"]: row["value"] for row in found} == pytest.approx({"hidden": 0.2, "last": 0.5, "best": 0.6})
    assert {row["n"] for row in found} == {15}


def test_another_theta_is_another_table_and_leaves_the_blind_methods_alone(monkeypatch):
    run = protection_run()
    nnslicer_protection.protected(run.settings, 0)
    changed = ProtectionRun(nnslicer_protection.Settings.of("smoke", theta=0.1), 0)
    monkeypatch.setattr(nnslicer_protection, "retrain", never)
    changed.attacked(Attack("weight", None, 50, 0.5))
    with pytest.raises(AssertionError, match="computed twice"):
        changed.attacked(Attack("nnslicer", changed.targets()[0], 50, 0.5))


def test_figures_and_tables_are_drawn_from_the_numbers():
    for item in nnslicer_pruning.ITEMS:
        results = item.of(nnslicer_pruning.Settings.of("smoke"))
        assert len(results.table) == 8 and [len(ax.get_lines()) for ax in results.figure.axes] == [6] * 3
    results = nnslicer_protection.PROTECTION.of(nnslicer_protection.Settings.of("smoke"))
    assert len(results.table) == 18 and len(results.figure.axes) == 2


def test_settings_of_the_paper_are_the_sources(monkeypatch):
    monkeypatch.delenv("NEURONS_CONFIG")
    chosen = nnslicer_pruning.Settings.of("paper")
    assert chosen.subsets is None and chosen.finetune_subsets is None and chosen.subset_size == 4
    assert chosen.ratios == chosen.finetune_ratios == (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert (chosen.finetune_images, chosen.finetune_batch) == (10000, 256)
    chosen = nnslicer_protection.Settings.of("paper")
    assert (chosen.images, chosen.epochs, chosen.batch, chosen.share) == ((10000, 20000), 10, 256, 0.5)
    assert chosen.sweep_shares == (0.1, 0.3, 0.5, 0.7, 0.9) and chosen.data == "cifar10"
