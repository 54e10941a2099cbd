"""From tables of the studies of decisions to numbers, tables, texts and plots."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from lib import plots
from lib.contract import check_number
from lib.dynamic.study import decision_records, detection_records, draw_decisions, draw_detection, names
from lib.dynamic.study.decisions import SPACES
from lib.dynamic.study.detection_adaptive import AIMS, ANEW
from lib.dynamic.study.detection_bench import DECISIONS, ON_CLEAN, PAIRS, PENULTIMATE, UNTRAINED
from lib.evaluations import frame

NETWORKS = {"net-a": "stated", "net-b": "standardised"}
TITLES = ["net, a", "net, b"]
ATTACKS = ["fgsm_8", "rpgd_8", "cw_l2"]
LAYERS = ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"]
CLASSES = [*"abcd"]


def layer_frame(seed):
    rows = []
    for number, (name, form) in enumerate(NETWORKS.items()):
        for units in ("trained", "untrained"):
            for place, layer in enumerate(LAYERS, 1):
                entropy = 0.01 if (name, place) == ("net-a", 1) else 1.0 + number + 0.1 * seed
                rows.append({"network": name, "form": form, "units": units, "place": place, "layer": layer, "masks": 5})
                rows[-1] |= {"entropy": entropy, "information": entropy / 2, "baseline": 0.01, "baseline_high": 0.02}
                rows[-1] |= {"p_value": 0.01, "top_share": 0.5, "used": 3, "n": 400}
    return pd.DataFrame(rows)


def path_frame(seed):
    rows = []
    for name, form in NETWORKS.items():
        about = {"network": name, "form": form}
        measured = {"paths": 30.0 + seed, "top path": 0.2, "accuracy, rarest tenth": 0.8}
        measured |= {"accuracy, the other nine tenths": 0.9}
        rows += [{"kind": "measure", "name": k, "value": v, "n": 400, **about} for k, v in measured.items()]
        for kind, bits in (("rare", 9.0), ("usual", 2.0)):
            seen = {"position": 3, "label": 1, "predicted": 2, "path": "0-1-2", "value": 1}
            rows += [{"kind": kind, "bits": bits, **seen, **about}] * 2
    return pd.DataFrame(rows)


def umap_frame(seed):
    random, rows = np.random.default_rng(seed), []
    for name, form in NETWORKS.items():
        for kind in ("train", "test", *ATTACKS):
            for i in range(8):
                x, y = random.random(2)
                rows.append({"kind": "point", "inputs": kind, "label": i % 4, "x": x, "y": y})
        for space in SPACES:
            told = {"kind": "measure", "space": space}
            rows.append({**told, "name": "neighbour accuracy", "inputs": "train", "value": 0.4 + seed / 10, "n": 600})
            rows += [{**told, "name": "apart", "inputs": attack, "value": 0.7, "n": 90} for attack in ATTACKS]
        for row in rows:
            row.setdefault("network", name)
            row.setdefault("form", form)
    return pd.DataFrame(rows)


def detection_frame(seed):
    rows = []
    fitted = [(word, ON_CLEAN) for word in ("max-softmax", "kernel density")]
    fitted += [(word, attack) for word in (DECISIONS, UNTRAINED, PENULTIMATE, "LID") for attack in ATTACKS]
    for name, form in NETWORKS.items():
        for detector, trained_on in fitted:
            for attack in ATTACKS:
                for lower, pair in enumerate(PAIRS):
                    area = (0.9 if trained_on in (attack, ON_CLEAN) else 0.6) - 0.1 * lower + 0.01 * seed
                    rows.append({"network": name, "form": form, "detector": detector, "trained_on": trained_on})
                    rows[-1] |= {"attack": attack, "pair": pair, "auroc": area, "low": area - 0.05, "high": area + 0.05}
                    rows[-1] |= {"n": 120, "n_other": 150}
    return pd.DataFrame(rows)


def adaptive_frame(seed):
    return pd.DataFrame(
        {"network": name, "form": form, "aim": aim, "gradient": way, "weight": weight, "detector": detector,
         "auroc": 0.9 - 0.1 * weight + 0.01 * seed, "low": 0.7, "high": 1.0, "n": 40, "n_other": 150,
         "success": 0.9, "distance": 2.0 - weight}
        for name, form in NETWORKS.items() for aim in AIMS for way in ("held", "straight-through")
        for weight in (0.0, 1.0) for detector in (DECISIONS, ANEW, "max-softmax")
    )  # fmt: skip


def frames(make):
    return {seed: make(seed) for seed in (0, 1)}


@pytest.fixture(scope="module")
def decided():
    return [*decision_records.layer_numbers(frames(layer_frame)), *decision_records.path_numbers(frames(path_frame))]


@pytest.fixture(scope="module")
def placed():
    return decision_records.umap_numbers(frames(umap_frame))


@pytest.fixture(scope="module")
def detected():
    made = detection_records.detection_numbers(frames(detection_frame))
    return [*made, *detection_records.adaptive_numbers(frames(adaptive_frame))]


def test_every_number_keeps_the_contract_and_stands_once(decided, placed, detected):
    for numbers in (decided, placed, detected):
        for number in numbers:
            check_number(number, "a number")
        places = [(number["name"], tuple(sorted(number["where"].items()))) for number in numbers]
        assert len(set(places)) == len(places)


def test_every_cell_of_the_tables_is_a_number_of_the_record(decided, placed, detected):
    made = (
        (decided, decision_records.decision_table(decided)),
        (placed, decision_records.umap_table(placed)),
        (detected, detection_records.layout(detected)),
    )
    for numbers, table in made:
        known = {round(number["value"], 9) for number in numbers}
        cells = [cell for cell in table.to_numpy().ravel() if isinstance(cell, float)]
        assert cells and {round(cell, 9) for cell in cells} <= known


def test_layers_are_counted_as_collapsed_below_the_bound(decided):
    rows = frame(decided, "collapsed_layers", units="trained").set_index("network")["value"]
    assert rows.to_dict() == {"net-a": 1, "net-b": 0}
    mean = frame(decided, "entropy", layer=decision_records.MEAN, choices="measured", units="trained", network="net-a")
    assert mean["value"].item() == pytest.approx(np.mean([(0.01 + 2 * (1 + 0.1 * seed)) / 3 for seed in (0, 1)]))
    still = frame(decided, "entropy", choices="constant")
    assert (still["value"] == 0).all()
    text = decision_records.layers_reading(decided)
    assert "`net-a` (stated): 1 of 3 layers" in text and "`net-b` (standardised): 0 of 3 layers" in text
    assert "30 different paths among 400 images" in decision_records.paths_reading(
        decision_records.path_numbers({0: path_frame(0)})
    )


def test_means_within_and_across_attacks(detected):
    rows = detection_records.of_pair(detected, network="net-a", detector=DECISIONS)
    value = rows.set_index(["trained_on", "attack"])["value"]
    assert value[detection_records.SAME, "fgsm_8"] == pytest.approx(0.905)
    assert value[detection_records.OTHER, "fgsm_8"] == pytest.approx(0.605)
    assert value[detection_records.SAME, detection_records.AVERAGE] == pytest.approx(0.905)
    assert value["rpgd_8", "fgsm_8"] == pytest.approx(0.605)
    low = frame(detected, "auroc_low", network="net-a", detector=DECISIONS, attack="fgsm_8", pair=PAIRS[0])
    assert low["value"].tolist() == pytest.approx([0.855])


def test_texts_name_networks_and_values():
    numbers = detection_records.detection_numbers({0: detection_frame(0)})
    text = detection_records.reading(numbers)
    assert "`net-a`: the forest on the decision feature reaches 0.90 on average over the attacks, 0.60 where" in text
    assert "the best other detector 0.90" in text and "from noise of their size with 0.70" in text
    assert "0.90 \\[0.85, 0.95\\]" in detection_records.intervals_table(numbers, "net-a")
    assert all(pair in detection_records.noise_text(numbers) for pair in PAIRS)
    told = detection_records.adaptive_text(detection_records.adaptive_numbers({0: adaptive_frame(0)}))
    assert "| net-a | decision feature | 0.90 | 0.80 (own, held, weight 1) |" in told


@pytest.fixture(autouse=True)
def drawn():
    yield
    plt.close("all")


def test_maps_have_a_panel_a_layer_and_a_line_a_network():
    rows = [
        {"network": name, "form": form, "place": p, "layer": layer, "label": label, "row": row, "share": 0.2, "n": 9}
        for name, form in NETWORKS.items()
        for p, layer in enumerate(LAYERS, 1)
        for label in range(4)
        for row in range(5)
    ]
    figure = draw_decisions.maps(pd.DataFrame(rows), CLASSES)
    pictures = [ax for ax in figure.axes if ax.images]
    assert len(pictures) == 6 and pictures[0].images[0].get_array().shape == (4, 5)
    assert [ax.get_title() for ax in pictures[:3]] == ["layer1.0", "layer1.1", "layer2.0"]


def test_plots_show_every_network(decided, placed, detected):
    figure, axes = plots.panels(2, sharey=True)
    draw_decisions.by_layer(axes, decided)
    assert [ax.get_title() for ax in axes] == TITLES and len(axes[0].lines) == 5
    points = umap_frame(0)
    figure, axes = plots.panels(2)
    draw_decisions.plane(axes, points[points["kind"] == "point"], CLASSES)
    assert len(axes[1].collections) == len(CLASSES) + 1  # each class, and the adversarials
    for draw in (draw_detection.within, draw_detection.noise):
        figure, axes = plots.panels(2, sharey=True)
        draw(axes, detected)
        assert axes[0].containers and [ax.get_title() for ax in axes] == TITLES
    figure, axes = plots.panels(3, sharey=True)
    draw_detection.matrix(axes, detected, "net-b")
    assert axes[0].images[0].get_array().shape == (3, 3)
    figure, axes = plots.panels(4, sharey=True)
    draw_detection.adaptive(axes, detected, "net-a")
    assert len(axes[0].lines) == 4  # three detectors and the attack's success
    rows = path_frame(0)
    rows = rows[(rows["network"] == "net-a") & (rows["kind"] != "measure")].reset_index(drop=True)
    figure = draw_decisions.pictures(torch.rand(4, 3, 8, 8), rows, CLASSES)
    assert sum(bool(ax.images) for ax in figure.axes) == 4
    assert plots.render(figure, "png")


def test_networks_are_named_in_words_on_short_lines():
    assert names.titled("scratch-vgg16") == "VGG16"
    assert names.titled("scratch-mobilenet-v1") == "MobileNet v1"
    lines = names.titled("dynamic-resnet-standardised-b0.5", width=22).splitlines()
    assert " ".join(lines) == "ResNet, standardised, at 0.5 of the FLOPs"
    assert max(map(len, lines)) <= 22
