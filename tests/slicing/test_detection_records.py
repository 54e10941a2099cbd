"""From tables of the detection study to numbers, texts and plots."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lib import plots, record
from lib.attacks import SUITE
from lib.slicing.study import detection_records as records
from lib.slicing.study import draw_detection as draw

ATTACKS = ["fgsm_8", "rpgd_8", "deepfool_l2"]
METHODS = [("nnslicer", "predicted"), ("nnslicer", "dataset"), ("effective-path", "none"), ("feature-map", "none")]


def rule_frame(seed):
    rows = []
    for method, reference in METHODS:
        for kind, tree in (("tree", 3), ("tree", 0), ("forest", 3)):
            about = {"method": method, "reference": reference, "rule": kind, "tree_seed": tree}
            rows.append({"attack": "clean", **about, "fpr": 0.2, "n": 500})
            for place, attack in enumerate(ATTACKS):
                recall = 0.0 if (attack, method) == ("rpgd_8", "effective-path") else 0.1 * (place + 1) + 0.02 * seed
                flagged = recall + 0.2 if recall else 0.0
                rates = {"recall": recall, "fpr": 0.2 if recall else 0.0, "f1": 2 * recall / (1 + flagged)}
                rates |= {"precision": recall / flagged if flagged else None, "auroc": 0.5 + recall / 2}
                rows.append({"attack": attack, **about, **rates, "n": 100 + place})
    return pd.DataFrame(rows)


def signal_frame(seed):
    rows = []
    tested = [*ATTACKS, "noise_8"]
    kinds = [(name, "clean") for name in ("max-softmax", "similarity", "activity", "Mahalanobis, last layer")]
    kinds += [("forest", name) for name in (*ATTACKS, "all attacks", "other families")]
    for detector, trained_on in kinds:
        for place, attack in enumerate(tested[:3] if trained_on == "other families" else tested):
            value = 0.5 + 0.1 * place + 0.01 * seed
            rows.append({"detector": detector, "trained_on": trained_on, "attack": attack, "auroc": value})
            rows[-1] |= {"recall": 0.3, "fpr": 0.05, "precision": 0.8, "f1": 0.5, "n": 50}
    return pd.DataFrame(rows)


def adaptive_frame(seed):
    return pd.DataFrame(
        {"aim": aim, "weight": weight, "detector": detector, "auroc": 0.9 - 0.1 * weight + 0.01 * seed, "recall": 0.5,
         "fpr": 0.05, "n": 40, "success": 1.0, "distance": 2.0 - weight}
        for aim in ("mean", "guide") for weight in (0.0, 1.0, 5.0) for detector in ("activity", "max-softmax")
    )  # fmt: skip


@pytest.fixture(scope="module")
def numbers():
    frames = [{seed: make(seed) for seed in (0, 1)} for make in (rule_frame, signal_frame, adaptive_frame)]
    return [
        *records.rule_numbers(frames[0], first=3), *records.signal_numbers(frames[1]),
        *records.adaptive_numbers(frames[2]),
    ]  # fmt: skip


def only(numbers, name, **where):
    found = [n for n in numbers if n["name"] == name and {**n["where"], **where} == n["where"]]
    assert len(found) == 1, found
    return found[0]


NNSLICER = {"method": "nnslicer", "reference": "predicted", "rule": "tree", "tree_seed": 3}


def test_every_number_is_there_once(numbers):
    places = [(n["name"], tuple(sorted(n["where"].items()))) for n in numbers]
    assert len(places) == len(set(places))


def test_averages_are_means_over_the_attacks_with_the_stated_values_beside_them(numbers):
    recall = only(numbers, "recall", attack="average", **NNSLICER)
    assert recall["per_seed"] == pytest.approx([0.2, 0.22]) and recall["n"] == 303
    assert recall["paper_value"] == 1.0
    assert only(numbers, "precision", attack="average", **NNSLICER)["paper_value"] == 0.83
    stated = [n for n in numbers if n["paper_value"] is not None]
    assert len(stated) == 4 and {n["where"]["method"] for n in stated} == {"nnslicer"}
    assert only(numbers, "recall", attack="fgsm_8", **NNSLICER)["per_seed"] == pytest.approx([0.1, 0.12])


def test_a_precision_without_flags_is_left_out_of_numbers_and_average(numbers):
    where = {"method": "effective-path", "rule": "tree", "tree_seed": 3}
    assert not [
        n for n in numbers if n["name"] == "precision" and {**n["where"], **where, "attack": "rpgd_8"} == n["where"]
    ]
    average = only(numbers, "precision", attack="average", **where)
    assert average["per_seed"][0] == pytest.approx((0.1 / 0.3 + 0.3 / 0.5) / 2)


def test_other_trees_are_reported_by_their_averages_alone(numbers):
    rows = [n for n in numbers if n["where"].get("tree_seed") == 0]
    assert rows and {n["where"]["attack"] for n in rows} == {"average"}


def test_the_flagged_shares_are_recall_and_false_positives(numbers):
    for kind, name in (("adversarial", "recall"), ("clean", "fpr")):
        flagged = only(numbers, "flagged", attack="fgsm_8", inputs=kind, **NNSLICER)
        assert flagged["per_seed"] == only(numbers, name, attack="fgsm_8", **NNSLICER)["per_seed"]


def test_the_hypothesis_is_arithmetic_and_says_so(numbers):
    found = only(numbers, "precision_if_all_flagged", attack="average", **NNSLICER)
    assert found["value"] == pytest.approx(1 / 1.2) and "hypothesis" in found["note"] and found["paper_value"] is None
    text = records.arithmetic_text(numbers)
    assert "Hypothesis, not a result" in text and "1 / (1 + 0.200) = 0.833" in text and "0.205" in text


def test_signal_averages_leave_the_noise_controls_out(numbers):
    same = only(numbers, "auroc", detector="forest", trained_on=records.SAME, attack="average")
    assert same["per_seed"] == pytest.approx([0.6, 0.61])
    assert only(numbers, "auroc", detector="forest", trained_on="rpgd_8", attack="noise_8")["value"] == pytest.approx(
        0.805
    )
    assert "on noise of 8/255" in records.noise_text(numbers)
    assert "| forest | the same attack | 0.60" in records.signal_text(numbers)


def test_texts_name_the_methods_and_the_lowest_area(numbers):
    assert "flags 21% of the adversarials and 20% of the clean" in " ".join(records.rule_text(numbers).split())
    assert "| activity | 0.91 | 0.41 (" in records.adaptive_text(numbers)


def test_the_table_has_a_row_for_each_attack_the_average_and_the_stated_one(numbers):
    table = records.layout(numbers)
    assert list(table["attack"]) == ["FGSM_8", "DeepFoolL2", "RPGD_8", "average", "average, as stated"]
    assert list(table["n"]) == [100, 102, 101, 303, None]
    row = table.iloc[-1]
    assert row["NNSlicer, class mean: recall"] == 1.0 and row["NNSlicer, overall mean: precision"] == 0.83
    assert table.iloc[2]["EffectivePath: precision"] is None
    held = {value for n in numbers for value in (n["value"], n["paper_value"], n["n"])}
    cells = [cell for row in table.to_numpy().tolist() for cell in row if isinstance(cell, (int, float))]
    assert len(cells) > 40 and set(cells) <= held


def test_labels_are_the_suites():
    assert records.attack_label("fgsm_8") == SUITE["fgsm_8"].label
    assert records.attack_label("noise_8") == "noise of 8/255" and records.attack_label("average") == "average"


def test_plots_show_every_attack_and_draw_to_a_file(numbers):
    plots.style()
    drawn = {
        "rule": (3, draw.rule),
        "seeds": (2, draw.tree_seeds),
        "adaptive": (2, draw.adaptive),
        "signals": (1, lambda axes, found: draw.signals(axes[0], found)),
        "matrix": (1, lambda axes, found: draw.matrix(axes[0], found)),
    }
    for name, (count, make) in drawn.items():
        figure, axes = plots.panels(count, height=3)
        make(axes, numbers)
        assert len(plots.render(figure, "png")) > 5000, name
        if name == "rule":
            shown = [text.get_text() for text in axes[0].get_yticklabels()]
            assert shown == ["FGSM_8", "DeepFoolL2", "RPGD_8", "average"]
        if name == "matrix":
            texts = [text.get_text() for text in axes[0].texts]
            assert texts.count("60") >= 3 and len(texts) == 4 * 4 + 3
        plt.close(figure)


def test_the_numbers_are_a_records(numbers):
    assert record.dumps({"numbers": numbers})
    assert {n["name"] for n in numbers} >= {
        "precision",
        "recall",
        "f1",
        "fpr",
        "auroc",
        "flagged",
        "success",
        "distance",
    }


def test_methods_on_other_images_are_said_and_equal_ones_are_not():
    even = pd.DataFrame({"attack": ["fgsm_2", "fgsm_2", "clean", "clean"], "n": [9, 9, 1000, 1000]})
    uneven = pd.DataFrame({"attack": ["fgsm_2", "pointwise", "pointwise"], "n": [9, 115, 1597]})
    assert records.uneven_text({0: even}) == ""
    told = records.uneven_text({0: even, 1: uneven})
    assert "Pointwise (115 to 1,597)" in told and "FGSM" not in told
