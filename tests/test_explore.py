"""What the explorer computes (attacks, slices, decisions, blame), and what it draws and says of it."""

import copy
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from explored import dynamic, network

from lib import attacks, config, explore
from lib.explore import blame, decisions, prediction, slices
from lib.explore import network as networks
from lib.slicing.backward import slice as slice_of

POSITION = 2


@pytest.fixture(scope="module")
def small():
    return network()


@pytest.fixture(scope="module")
def choosing():
    return dynamic()


@pytest.fixture(scope="module")
def fooled(small):
    """The first image that FGSM fools the network about."""
    made = (explore.attack(small, k, "fgsm_8", 255) for k in range(len(small.index)))
    return next(example for example in made if example.predicted[1] != example.label)


@pytest.fixture(autouse=True)
def places(small, monkeypatch, tmp_path):
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path))
    monkeypatch.setattr(networks.data, "load", lambda *_: small.test)  # what slices compare with


def test_fgsm_moves_pixels_by_epsilon_and_is_shown_where_it_fails(small):
    for strength in (0.01, 10):
        example = explore.attack(small, POSITION, "fgsm_8", strength)
        change = example.images[1] - example.images[0]
        assert change.abs().max() == pytest.approx(strength / 255, abs=1e-6)
        with torch.no_grad():
            wanted = small.model(example.images).softmax(1)
        assert torch.allclose(example.probabilities, wanted, atol=1e-6)
        assert example.probabilities[1, example.label] < example.probabilities[0, example.label]
    assert explore.attack(small, POSITION, "fgsm_8", 0.01).predicted[1] == example.label


def test_nothing_is_attacked_at_strength_0_nor_where_the_network_is_wrong(small):
    wrong = copy.deepcopy(small)
    wrong.test.labels[POSITION] = (wrong.test.labels[POSITION] + 1) % 4
    for example in (explore.attack(small, POSITION, "rpgd_8", 0), explore.attack(wrong, POSITION, "deepfool_l2")):
        assert torch.equal(*example.images)
    assert not example.correct


def test_what_an_attack_finds_serves_every_strength(small, monkeypatch):
    calls, craft = [], attacks.Attack.craft
    monkeypatch.setattr(attacks.Attack, "craft", lambda row, *given: calls.append(row.name) or craft(row, *given))
    fresh = copy.deepcopy(small)
    once, half, far = (explore.attack(fresh, POSITION, "deepfool_l2", strength) for strength in (None, 0.5, 1000))
    prediction.sweep(fresh, POSITION, "deepfool_l2")
    assert calls == ["deepfool_l2"]
    assert once.strength == 1 and once.predicted[1] != once.label
    assert torch.allclose(half.images[1], once.images.mean(0), atol=1e-6)
    assert far.images.min() >= 0 and far.images.max() <= 1


@pytest.mark.parametrize("name", ["fgsm_8", "deepfool_l2"])
def test_the_sweep_goes_through_what_the_slider_shows(small, name):
    most = 2 * prediction.usual_strength(name, "smoke")[0]
    table = prediction.sweep(small, POSITION, name)
    assert table.index[0] == 0 and table.index[-1] == most
    assert table.sum(axis=1).to_numpy() == pytest.approx(1)
    assert table.loc[most].to_numpy() == pytest.approx(
        explore.attack(small, POSITION, name, most).probabilities[1], abs=1e-6
    )


def test_every_attack_of_the_suite_can_be_chosen_once():
    eps = [name for name, row in attacks.SUITE.items() if "epsilon" in row.defaults]
    assert set(prediction.ATTACKS) == {"fgsm_8", "rpgd_8"} | (set(attacks.SUITE) - set(eps))
    assert all(prediction.usual_strength(name, "smoke")[0] > 0 for name in prediction.ATTACKS)


def test_slices_are_those_of_the_two_images(small, fooled):
    found = slices.compare(fooled)
    wanted = slice_of(small.model, fooled.images, networks.profile_of(small))
    for layer, value in wanted.synapses.items():
        inside = value != 0
        shares, contributions = found.maps(layer)
        assert shares.shape == (2, *value.shape[1:3])
        for row in range(2):
            assert found.synapses.loc[layer].iloc[row] == pytest.approx(inside[row].double().mean().item())
            assert shares[row].mean().item() == pytest.approx(inside[row].double().mean().item())
            assert contributions[row].sum() == wanted.neurons[layer][row].sum()
        either = (inside[0] | inside[1]).sum()
        share = (inside[0] & inside[1]).sum() / either if either else 1
        assert found.overlap.loc[layer, slices.ADVERSARIAL] == pytest.approx(float(share))


def test_slices_of_one_image_twice_are_the_same_and_a_class_of_one_has_no_peer(small):
    same = slices.compare(explore.attack(small, POSITION, "fgsm_8", 0))
    assert same.whole[slices.ADVERSARIAL] == 1 > same.whole[slices.PEER]
    single = slices.compare(
        explore.attack(replace(small, index=torch.tensor([POSITION]), predicted=small.predicted[[POSITION]]), POSITION)
    )
    assert list(single.whole.index) == [slices.CLEAN, slices.ADVERSARIAL]


def test_decisions_are_those_of_the_units(choosing):
    example = explore.attack(choosing, POSITION, "fgsm_8", 0)
    still = decisions.decision_path(example).table
    assert (still["clean"] == still["adversarial"]).all() and not still["changed"].any()
    # Decisions of random units hardly move with an attack: any other image will do.
    found = decisions.decision_path(replace(example, images=torch.stack([example.images[0], torch.zeros(3, 16, 16)])))
    assert (found.table["clean"] != found.table["adversarial"]).any()
    for place, (layer, row) in enumerate(found.table.iterrows()):
        masks, codes = choosing.model.unit(layer).masks, found.channels[place]
        clean, adversarial = masks[row["clean"]] != 0, masks[row["adversarial"]] != 0
        counts = [(code, int((codes == code).sum())) for code in range(5)]
        assert counts == [
            (decisions.ABSENT, len(codes) - len(clean)),
            (decisions.NEITHER, int((~clean & ~adversarial).sum())),
            (decisions.ONLY_ADVERSARIAL, int((adversarial & ~clean).sum())),
            (decisions.ONLY_CLEAN, int((clean & ~adversarial).sum())),
            (decisions.BOTH, int((clean & adversarial).sum())),
        ]
        assert row["changed"] == int((clean != adversarial).sum()) and row["channels"] == len(clean)
    assert torch.allclose(found.rows.sum(2), torch.ones(2, 9), atol=1e-5)


def test_decisions_are_shown_of_a_dynamic_network_of_the_same_data(small, choosing, monkeypatch):
    monkeypatch.setattr(decisions, "dynamic_networks", lambda *_: [])
    assert decisions.dynamic_network(choosing) is choosing
    assert decisions.dynamic_network(small) is None
    assert decisions.view(explore.attack(small, POSITION))[0].figure is None
    monkeypatch.setattr(decisions, "dynamic_networks", lambda *_: ["dynamic"])
    monkeypatch.setattr(decisions, "load", lambda *_: choosing)
    assert decisions.dynamic_network(small) is choosing
    colours = replace(small, test=replace(small.test, name="colours"))
    with pytest.raises(explore.ExploreError, match="networks dynamic and small are of two data sets"):
        decisions.dynamic_network(colours)


@pytest.mark.parametrize("companion", blame.COMPANIONS)
def test_without_the_blamed_weights_the_network_is_right(small, fooled, companion):
    state = copy.deepcopy(small.model.state_dict())
    found = blame.blame(fooled, companion)
    row, changed = found.table.loc[found.chosen], copy.deepcopy(small.model)
    changed.get_submodule(found.chosen).weight.data[found.votes[found.chosen].counts > 0] = 0
    with torch.no_grad():
        clean, wanted = changed(fooled.images).softmax(1)
    assert wanted.argmax() == fooled.label == row["top"]
    assert clean.argmax() == row["clean_top"]
    assert row["truth"] == pytest.approx(wanted[fooled.label].item(), abs=1e-6)
    assert row["part"] == row["blamed"] / row["weights"] == found.table[found.table["blamed"] > 0]["part"].min()
    heat, counts = found.map(found.chosen)
    assert int(counts.sum()) == row["blamed"] and heat.min() >= 0 and heat.max() <= 1
    assert all(torch.equal(state[key], value) for key, value in small.model.state_dict().items())
    assert companion != blame.CLEAN or torch.equal(found.image, fooled.images[0])


def test_where_no_mask_helps_the_clean_image_stands_in(fooled, monkeypatch):
    real = blame.companions

    def none_found(*given, **options):
        made = real(*given, **options)
        made.found[:] = False
        return made

    monkeypatch.setattr(blame, "companions", none_found)
    found = blame.blame(replace(fooled))
    assert found.mask is None and torch.equal(found.image, fooled.images[0])


def test_what_does_not_exist_is_refused(small, fooled, choosing):
    right = blame.blame(explore.attack(small, POSITION, "fgsm_8", 0.01))
    assert right.chosen is None
    for wrong, match in (
        (lambda: small.position(24), "image 24: a number from 0 to 23"),
        (lambda: explore.attack(small, POSITION, "fsgm"), "no attack 'fsgm'"),
        (lambda: explore.attack(small, POSITION, "fgsm_8", -1), "strength -1"),
        (lambda: slices.view(fooled, "third"), "no layer 'third': one of first, second, fc"),
        (lambda: decisions.decision_path(fooled), "network small has no decision units"),
        (lambda: blame.blame(fooled, "neighbour"), "one of 'companion', 'clean image'"),
        (lambda: blame.view(fooled, "third"), "no layer 'third': one of first, second, fc"),
        (lambda: right.map("fc"), "no error was located"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong()


def test_every_figure_is_drawn_with_a_caption_and_none_is_left_open(small, fooled, choosing):
    before = plt.get_fignums()
    still = explore.attack(choosing, POSITION, "fgsm_8", 0)
    views = [*prediction.view(fooled), *prediction.view(still), *slices.view(fooled), *slices.view(fooled, "first")]
    views += [*decisions.view(still), *blame.view(fooled), *blame.view(fooled, "first", blame.CLEAN)]
    for figure, caption in views:
        figure.canvas.draw()
        assert all(ax.get_xlabel() or ax.get_title() or ax.get_label() == "<colorbar>" for ax in figure.axes)
        assert caption.endswith(".")
    assert plt.get_fignums() == before
    assert blame.view(still)[0].figure is None, "the network is right: there is nothing to locate"


def test_only_networks_that_are_there_are_offered(monkeypatch):
    for place, asked in ((networks.zoo, "kept"), (networks, "on_disk")):
        monkeypatch.setattr(place, asked, lambda name, *_: name == "alexnet-b128")
    assert networks.networks("smoke") == ["nnslicer-resnet10", "alexnet-b128"]
    assert networks.dynamic_networks("smoke") == []
    for place, asked in ((networks.zoo, "kept"), (networks, "on_disk")):
        monkeypatch.setattr(place, asked, lambda *_: True)
    for scale in config.SCALES:
        assert networks.dynamic_networks(scale)[0] == "dynamic-resnet-standardised-b0.5"
        assert set(networks.networks(scale)) <= set(config.load(scale).networks)


def test_a_damaged_profile_is_made_anew(small, tmp_path):
    profile = networks.profile_of.__wrapped__
    first = profile(small)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(first.input_mean("fc"), profile(small).input_mean("fc"))
