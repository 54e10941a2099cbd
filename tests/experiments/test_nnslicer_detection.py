"""Detection by slices: inputs, the source's rule by hand on a small network, kept tables, and what is told of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib import attacks, config, data, permission, record, slicing
from lib.attacks import SUITE
from lib.detectors import TreeRule
from lib.experiments import nnslicer_detection as experiment
from lib.experiments import nnslicer_signals
from lib.experiments.nnslicer_detection import SAME, Settings, Study
from lib.experiments.nnslicer_detection_inputs import Given, counterparts, forward, given
from lib.experiments.run import Run
from lib.slicing.kinds import SlicingError

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  nnslicer-resnet10: {arch: resnet10-preact, arch_args: {width: 2, normalise: false}, data: mnist5k, epochs: 5,
    batch: 50, train_limit: 1500, learning_rate: 0.05, family: nnslicer-resnet10}
attacks: {suite: [rpgd_8 fgsm_8], images: 40, fgsm_8: {epsilon: 0.25}, rpgd_8: {epsilon: 0.25}}
study:
  nnslicer:
    data: mnist5k
    seeds: [0]
    profile_per_class: 15
    detection: {per_class: 12, tree_seeds: [3, 0], forest_trees: 5, means_per_class: 5, fit_per_class: 5,
      signal_images: 12, signal_clean: 30, signal_trees: 5, noise: [16], adaptive_images: 8, adaptive_epsilon: 32,
      adaptive_steps: 3, adaptive_weights: [0, 1]}
"""


# --- inputs


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_adversarials_find_the_clean_image_they_were_made_of(network, images):
    labels = np.arange(60) % 3
    clean = given(network, images, np.arange(100, 160), labels)
    with torch.no_grad():
        assert clean.predicted.tolist() == network(images).argmax(1).tolist() and clean.doubt.shape == (60,)
    some = clean.take([5, 3, 40])
    assert counterparts(clean, some).tolist() == [5, 3, 40] and some.labels.tolist() == [2, 0, 1]
    torch.testing.assert_close(clean.take([5, 3, 40]).images, images[[5, 3, 40]])
    nothing = given(network, images[:0], [], [])
    assert len(nothing) == 0 and len(nothing.take(np.zeros(0, bool))) == 0


def test_forward_gives_logits_or_what_enters_a_layer(network, images):
    with torch.no_grad():
        np.testing.assert_allclose(forward(network, images), network(images), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(forward(network, images, layer="3"), network[:3](images), rtol=1e-5)
    exact = forward(network, images, double=True)
    assert exact.dtype == np.float64 and next(network.parameters()).dtype == torch.float32


# --- a small network


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    (folder / "config").mkdir()
    for source in (config.ROOT / "config").glob("*.yaml"):
        (folder / "config" / source.name).write_text(source.read_text())
    (folder / "config" / "smoke.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def smoke(places, monkeypatch, one_thread):
    for name in ("config", "cache", "results"):
        monkeypatch.setenv(f"NEURONS_{name.upper()}", str(places / name))
    strict = torch.are_deterministic_algorithms_enabled()
    with permission.asked():
        yield Settings.of("smoke")
    torch.use_deterministic_algorithms(strict)


def test_training_images_are_right_balanced_and_take_turns(smoke):
    run = Study(smoke, 0)
    inputs, train = run.training_inputs, data.load("mnist5k", "train")
    assert (inputs.predicted == inputs.labels).all() and len(set(inputs.index)) == len(inputs)
    assert (np.bincount(inputs.labels) <= 12).all() and np.bincount(inputs.labels).max() == 12
    assert inputs.labels.tolist() == train.labels[inputs.index].tolist()
    means, fit = run.fit_inputs()
    assert not set(means.index) & set(fit.index) and np.bincount(means.labels).max() == 5


def test_the_rule_is_the_trees_by_hand(smoke):
    """Sliced one image at a time, the tree's answers beside the network's."""
    run = Study(smoke, 0)
    frame = experiment.detected(smoke, 0)
    rule = slicing.NNSlicer(run.profile(), 0.2, reference="predicted")
    layer = "blocks.3.conv2"

    def sliced(images):
        parts = [next(iter(slicing.slices_by_chunk(run.model, one[None], rule, [layer]))) for one in images]
        return np.concatenate([part.sparse(layer).toarray() for part in parts])

    train = run.training_inputs
    tree = TreeRule("tree", 3).fit(sliced(train.images), train.predicted)
    made = attacks.adversarials("nnslicer-resnet10", "smoke", 0, name="fgsm_8")
    adversarial = made.images[made.success]
    answers = forward(run.model, adversarial, double=True).argmax(1)
    wrong = answers != made.labels[made.success].numpy()
    recall = tree.flags(sliced(adversarial[wrong]), answers[wrong]).mean()
    rows = frame[(frame["measure"] == "recall") & (frame["attack"] == "fgsm_8") & (frame["tree_seed"] == 3)]
    row = rows[(rows["method"] == "nnslicer") & (rows["reference"] == "predicted") & (rows["rule"] == "tree")]
    assert row["value"].item() == pytest.approx(recall) and row["n"].item() == wrong.sum() > 10


def test_tables_are_kept_and_a_setting_makes_others(smoke, monkeypatch):
    once = experiment.detected(smoke, 0)
    assert set(once["measure"]) == {*experiment.UNITS, "images"}

    def never(*_, **__):
        raise AssertionError("computed twice")

    for name in ("training_vectors", "tested_vectors", "describe"):
        monkeypatch.setattr(Study, name, never)
    assert experiment.detected(smoke, 0).equals(once)
    for changed in ({"theta": 0.1}, {"attacks": ["fgsm_8"]}, {"per_class": 11}):
        with pytest.raises(AssertionError, match="computed twice"):
            Study(Settings.of("smoke", **changed), 0).rule_table("nnslicer", "tree", 3)
    with pytest.raises(AssertionError, match="computed twice"):
        Study(Settings.of("smoke", reference="predicted"), 0).signals()


def test_described_slices_are_kept_by_the_images_they_are_of(smoke, monkeypatch, tmp_path):
    """An adversarial set made anew on another machine may hold other images: its slices are not those kept before."""
    made = []

    def describe(self, images):
        made.append(len(images))
        return pd.DataFrame({"similarity:fc": images.flatten(1).sum(1).numpy()})

    monkeypatch.setattr(Study, "describe", describe)
    run = Study(smoke, 0)
    run.card("nnslicer-resnet10")
    monkeypatch.setattr(run, "card", lambda *_: {"weights": "w"})
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path))
    for index in ([1, 2, 3], [1, 2, 3], [1, 2, 4], [1, 2]):
        pixels, labels = torch.tensor(index).view(-1, 1, 1, 1).float(), np.zeros(len(index), np.int64)
        run.signal_inputs = {"fgsm_8": Given(pixels, np.array(index), labels, labels, labels.astype(float))}
        assert nnslicer_signals.described(run, "fgsm_8")["similarity:fc"].tolist() == index
    assert made == [3, 3, 2]


@pytest.mark.parametrize(("count", "empty"), [(10, "validation part and the test"), (20, "validation"), (40, "")])
def test_too_few_clean_images_are_told_before_anything_is_fitted(count, empty):
    labels = np.arange(count) % 10
    clean = Given(torch.zeros(count, 1, 2, 2), np.arange(count), labels, labels, labels.astype(float))
    if not empty:
        assert all(map(len, nnslicer_signals.parts_of(clean).values()))
        return
    with pytest.raises(SlicingError, match=f"^{count} clean images of 10 classes are too few: the {empty} part"):
        nnslicer_signals.parts_of(clean)


def test_the_suite_is_the_scales_in_the_sources_order(smoke):
    assert smoke.attack_names == ["fgsm_8", "rpgd_8"] and Settings.of("paper").attack_names == list(SUITE)[:17]
    assert Settings.of("smoke", attacks=["rpgd_8"]).attack_names == ["rpgd_8"]
    with pytest.raises(config.ConfigError, match="no attack 'fgsm_9'"):
        Settings.of("smoke", attacks=["fgsm_9"])


def test_images_of_an_attack_are_told_where_they_are_not_as_of_most():
    own = Settings.of("cpu").described(("per_class",))
    assert own["images an attack"] == 1000 and own["images under CWL2"] == 500 and "images under FGSM_8" not in own
    assert Settings.of("paper").described(("per_class",))["images under FGSM_8"] == 1000
    assert own["epsilon of FGSM_8"] == "8/255" and own["training images a class for the trees"] == 1000


# --- numbers

ATTACKS = ["fgsm_8", "rpgd_8", "deepfool_l2"]


def rule_table(name, kind, tree, seed):
    method, reference = name
    about = {"method": method, "reference": reference, "rule": kind, "tree_seed": tree}
    rows = [{"attack": "clean", **about, "fpr": 0.2, "n": 500}]
    for place, attack in enumerate(ATTACKS):
        recall = 0.0 if (attack, method) == ("rpgd_8", "effective-path") else 0.1 * (place + 1) + 0.02 * seed
        flagged = recall + 0.2 if recall else 0.0
        rates = {"recall": recall, "fpr": 0.2 if recall else 0.0, "f1": 2 * recall / (1 + flagged)}
        rates |= {"precision": recall / flagged if flagged else None, "auroc": 0.5 + recall / 2}
        rows.append({"attack": attack, **about, **rates, "n": 100 + place})
    return pd.DataFrame(rows)


def signal_table(seed):
    kinds = [(name, "clean") for name in ("max-softmax", "similarity", "activity", "Mahalanobis, last layer")]
    kinds += [("forest", name) for name in (*ATTACKS, "all attacks", "other families")]
    tested = [*ATTACKS, "noise_8"]
    return pd.DataFrame(
        {"detector": detector, "trained_on": trained_on, "attack": attack, "auroc": 0.5 + 0.1 * place + 0.01 * seed,
         "recall": 0.3, "fpr": 0.05, "n": 50}
        for detector, trained_on in kinds
        for place, attack in enumerate(ATTACKS if trained_on == "other families" else tested)
    )  # fmt: skip


def adaptive_table(seed):
    return pd.DataFrame(
        {"aim": aim, "weight": weight, "detector": detector, "auroc": 0.9 - 0.1 * weight + 0.01 * seed, "recall": 0.5,
         "fpr": 0.05, "n": 40, "success": 1.0, "distance": 2.0 - weight}
        for aim in ("mean", "guide") for weight in (0.0, 1.0, 5.0) for detector in ("activity", "max-softmax")
    )  # fmt: skip


def measured(settings, seed):
    rows = []
    for name in experiment.NAMES:
        for kind, tree in (("tree", 3), ("tree", 0), ("forest", 3)):
            rows += experiment._of_rule(rule_table(name, kind, tree, seed), tree == 3)
    rows += [*experiment._of_signals(signal_table(seed)), *experiment._of_adaptive(adaptive_table(seed))]
    return Run(settings, seed).tidy(rows)


@pytest.fixture(scope="module")
def results():
    return replace(experiment.DETECTION, measure=measured).of(Settings.of("paper", seeds=[0, 1]))


NNSLICER = {"method": "nnslicer", "reference": "predicted", "rule": "tree", "tree_seed": 3}


def only(results, name, **where):
    found = [n for n in results.numbers if n["name"] == name and {**n["where"], **where} == n["where"]]
    assert len(found) == 1, found
    return found[0]


def test_averages_are_means_over_the_attacks_with_the_published_values_beside_them(results):
    recall = only(results, "recall", attack="average", **NNSLICER)
    assert recall["per_seed"] == pytest.approx([0.2, 0.22]) and recall["n"] == 303
    assert recall["paper_value"] == 1.0
    assert only(results, "precision", attack="average", **NNSLICER)["paper_value"] == 0.83
    published = [n for n in results.numbers if n["paper_value"] is not None]
    assert len(published) == 4 and {n["where"]["method"] for n in published} == {"nnslicer"}
    assert only(results, "recall", attack="fgsm_8", **NNSLICER)["per_seed"] == pytest.approx([0.1, 0.12])


def test_a_precision_without_flags_is_left_out_of_numbers_and_average(results):
    where = {"method": "effective-path", "rule": "tree", "tree_seed": 3}
    assert not len(results.values("precision", attack="rpgd_8", **where))
    average = only(results, "precision", attack="average", **where)
    assert average["per_seed"][0] == pytest.approx((0.1 / 0.3 + 0.3 / 0.5) / 2)


def test_other_trees_are_reported_by_their_averages_alone(results):
    assert set(results.values("recall", tree_seed=0)["attack"]) == {"average"}
    assert len(results.rows("images")) == 2 * 4 * 3 * 4  # seeds, methods, trees with the forest, attacks with clean


def test_the_flagged_shares_are_recall_and_false_positives(results):
    for kind, name in (("adversarial", "recall"), ("clean", "fpr")):
        flagged = only(results, "flagged", attack="fgsm_8", inputs=kind, **NNSLICER)
        assert flagged["per_seed"] == only(results, name, attack="fgsm_8", **NNSLICER)["per_seed"]


def test_the_hypothesis_is_arithmetic_and_says_so(results):
    found = only(results, "precision_if_all_flagged", attack="average", **NNSLICER)
    assert found["value"] == pytest.approx(1 / 1.2) and "hypothesis" in found["note"] and found["paper_value"] is None


def test_signal_averages_leave_the_noise_controls_out(results):
    same = only(results, "auroc", detector="forest", trained_on=SAME, attack="average")
    assert same["per_seed"] == pytest.approx([0.6, 0.61])
    assert only(results, "auroc", detector="forest", trained_on="rpgd_8", attack="noise_8")["value"] == pytest.approx(
        0.805
    )


def test_the_table_has_a_row_for_each_attack_the_average_and_the_published_one(results):
    table = results.table
    assert list(table["attack"]) == ["FGSM_8", "DeepFoolL2", "RPGD_8", "average", "average, as stated"]
    assert list(table["n"]) == [100, 102, 101, 303, None]
    row = table.iloc[-1]
    assert row["NNSlicer, class mean: recall"] == 1.0 and row["NNSlicer, overall mean: precision"] == 0.83
    assert table.iloc[2]["EffectivePath: precision"] is None
    held = {value for n in results.numbers for value in (n["value"], n["paper_value"], n["n"])}
    cells = [cell for row in table.to_numpy().tolist() for cell in row if isinstance(cell, (int, float))]
    assert len(cells) > 40 and set(cells) <= held


def test_the_figure_shows_every_attack_and_the_numbers_are_a_records(results):
    shown = [text.get_text() for text in results.figure.axes[0].get_yticklabels()]
    assert shown == ["FGSM_8", "DeepFoolL2", "RPGD_8", "average"]
    assert record.dumps({"numbers": results.numbers})
    assert {n["name"] for n in results.numbers} == set(experiment.UNITS)
    assert experiment.label("noise_8") == "noise of 8/255"


def test_values_without_an_interval_are_told_alone():
    rows = pd.DataFrame({"value": [0.5, 0.25], "low": [0.4, np.nan], "high": [0.6, np.nan]})
    assert experiment.with_interval(rows).tolist() == ["0.50 (0.40 to 0.60)", "0.25"]


def test_an_attack_without_success_has_no_numbers(results):
    assert list(experiment._of_adaptive(pd.DataFrame([]))) == []
    assert results.values("auroc", surrogate=["mean"]).empty  # what no row is told apart by
