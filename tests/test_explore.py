"""The explorer's functions: what is attacked, sliced, decided and blamed, and what is said of it."""

import copy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from explored import Small, deciding, profile_of, subject

from lib import attacks, config, explore
from lib.dynamic.errors import DynamicError
from lib.explore import attacking, blame, draw, draw_blame, paths, slices, words
from lib.explore import subject as subjects
from lib.slicing.backward import slice as slice_of

POSITION = 2


@pytest.fixture(scope="module")
def small():
    return subject()


@pytest.fixture
def profiled(monkeypatch):
    monkeypatch.setattr(slices, "profile_of", profile_of)


def fooled(chosen, name="fgsm_8"):
    """The first image that an attack fools the network about."""
    made = (attacking.attack_image(chosen, k, name, 255) for k in range(len(chosen.index)))
    return next(attacked for attacked in made if attacked.fooled)


# ---- attacks


def test_fgsm_moves_every_pixel_by_epsilon_and_tells_the_probabilities(small):
    attacked = attacking.attack_image(small, POSITION, "fgsm_8", 10)
    assert attacked.unit == attacking.EPSILON
    assert attacked.distance("linf") == pytest.approx(10 / 255, abs=1e-6)
    with torch.no_grad():
        wanted = small.model(torch.stack([attacked.clean, attacked.adversarial])).softmax(1)
    assert torch.allclose(torch.stack([attacked.before, attacked.after]), wanted, atol=1e-6)
    assert attacked.after[attacked.truth] < attacked.before[attacked.truth]


def test_an_attack_that_fails_is_shown_as_it_is(small):
    attacked = attacking.attack_image(small, POSITION, "fgsm_8", 0.01)
    assert not attacked.fooled
    assert attacked.distance("linf") > 0, "the suite's sets put the clean image back; a reader wants to see the attempt"


def test_nothing_is_attacked_at_strength_0_nor_where_the_network_is_wrong(small):
    assert attacking.attack_image(small, POSITION, "rpgd_8", 0).distance("l0") == 0
    wrong = copy.deepcopy(small)
    wrong.test.labels[POSITION] = (wrong.test.labels[POSITION] + 1) % 4
    attacked = attacking.attack_image(wrong, POSITION, "deepfool_l2")
    assert attacked.distance("l0") == 0 and not attacked.fooled
    assert "nothing to attack" in words.of_attack(attacked, small.classes)


def test_an_attack_without_epsilon_is_taken_so_many_times(small):
    found = attacking.search(small, POSITION, "deepfool_l2")
    once, half = (attacking.attack_image(small, POSITION, "deepfool_l2", strength) for strength in (None, 0.5))
    assert once.strength == 1 and torch.equal(once.adversarial, found)
    assert once.fooled
    assert torch.allclose(half.adversarial, (once.clean + once.adversarial) / 2, atol=1e-6)
    far = attacking.attack_image(small, POSITION, "deepfool_l2", 1000)
    assert far.adversarial.min() >= 0 and far.adversarial.max() <= 1


@pytest.mark.parametrize("name", ["fgsm_8", "deepfool_l2"])
def test_the_sweep_goes_through_what_the_slider_shows(small, name):
    most = attacking.strengths(name, "smoke").most
    table = attacking.sweep(small, POSITION, name, count=3)
    assert table.groupby("strength")["probability"].sum().to_numpy() == pytest.approx(1)
    assert sorted(set(table["strength"])) == [0, most / 2, most]
    shown = attacking.attack_image(small, POSITION, name, most).after
    assert table[table["strength"] == most]["probability"].to_numpy() == pytest.approx(shown.numpy(), abs=1e-6)


def test_every_attack_of_the_suite_can_be_chosen_once():
    eps = [name for name, row in attacks.SUITE.items() if "epsilon" in row.defaults]
    assert set(explore.ATTACKS) == {"fgsm_8", "rpgd_8"} | (set(attacks.SUITE) - set(eps))
    for name in explore.ATTACKS:
        scope = explore.strengths(name, "smoke")
        assert 0 < scope.step < scope.usual <= scope.most


def test_what_does_not_exist_is_said(small):
    with pytest.raises(attacks.AttackError, match="no attack 'fsgm'"):
        attacking.strengths("fsgm", "smoke")
    with pytest.raises(explore.ExploreError, match="strength -1"):
        attacking.attack_image(small, POSITION, "fgsm_8", -1)
    with pytest.raises(explore.ExploreError, match="image 24: a number from 0 to 23"):
        small.position(24)


# ---- slices


def test_the_table_of_slices_counts_what_is_in_them(small, profiled):
    attacked = attacking.attack_image(small, POSITION, "fgsm_8", 60)
    found = slices.compared(small, attacked)
    wanted = slice_of(small.model, torch.stack([attacked.clean, attacked.adversarial]), profile_of(small))
    for row in found.table.to_dict("records"):
        clean, adversarial = wanted.synapses[row["layer"]] != 0
        assert row["clean"] == pytest.approx(clean.double().mean().item())
        assert row["adversarial"] == pytest.approx(adversarial.double().mean().item())
        either = int((clean | adversarial).sum())
        assert row["overlap"] == pytest.approx(int((clean & adversarial).sum()) / either if either else 1)
        shares = found.synapses(row["layer"])
        assert shares.shape == (2, *clean.shape[:2])
        assert shares.mean(dim=(1, 2)).tolist() == pytest.approx([row["clean"], row["adversarial"]])
        assert found.neurons(row["layer"])[0].sum() == wanted.neurons[row["layer"]][0].sum()
    assert found.largest == "fc"
    assert f"{found.overlap:.0%}" in words.of_slices(found)
    with pytest.raises(explore.ExploreError, match="no layer 'third': one of first, second, fc"):
        found.synapses("third")


def test_slices_of_one_image_twice_are_the_same(small, profiled):
    found = slices.compared(small, attacking.attack_image(small, POSITION, "fgsm_8", 0))
    assert found.overlap == 1 and set(found.table["overlap"]) == {1.0}
    assert found.peer is not None and found.peer < 1


def test_a_class_with_one_image_has_no_other_to_compare_with(small, profiled):
    alone = subjects.Subject("smoke", "small", 0, small.model, small.test, torch.tensor([POSITION]))
    found = slices.compared(alone, attacking.attack_image(alone, POSITION, "fgsm_8", 60))
    assert found.peer is None and "Two clean images" not in words.of_slices(found)
    assert len(draw.slice_layers(found).axes[2].lines) == 1


# ---- decisions


def test_a_path_tells_rows_and_channels():
    network = deciding()
    chosen = subject(network, "dynamic", side=16)
    attacked = attacking.attack_image(chosen, POSITION, "fgsm_8", 0)
    still = paths.path_of(chosen, attacked)
    assert still.moved == 0 and set(still.table["changed"]) == {0}
    # Decisions of random units hardly move with an attack: any other image will do.
    found = paths.path_of(chosen, replace(attacked, adversarial=torch.zeros_like(attacked.clean)))
    for place, row in enumerate(found.table.to_dict("records")):
        unit = network.unit(row["layer"])
        clean, adversarial = unit.masks[row["clean"]] != 0, unit.masks[row["adversarial"]] != 0
        assert row["kept_clean"] == int(clean.sum()) and row["kept_adversarial"] == int(adversarial.sum())
        codes = found.channels[place]
        assert (codes == paths.ABSENT).sum() == found.channels.shape[1] - len(clean)
        assert (codes == paths.BOTH).sum() == int((clean & adversarial).sum())
        assert (codes == paths.ONLY_ADVERSARIAL).sum() == int((adversarial & ~clean).sum())
        assert row["changed"] == np.isin(codes, [paths.ONLY_CLEAN, paths.ONLY_ADVERSARIAL]).sum()
    assert found.rows.sum(2) == pytest.approx(1, abs=1e-5)
    assert found.moved > 0
    assert f"{found.moved} of 9 layers" in words.of_path(found, chosen.classes)


def test_a_network_without_units_has_no_path(small):
    with pytest.raises(DynamicError, match="network small has no decision units"):
        paths.path_of(small, attacking.attack_image(small, POSITION, "fgsm_8", 1))
    assert "./run_all.sh cpu --only 00_explore" in words.no_path("cpu")


# ---- blame


@pytest.mark.parametrize("other", blame.WITH)
def test_without_the_blamed_weights_the_network_is_right(small, other):
    attacked = fooled(small)
    state = copy.deepcopy(small.model.state_dict())
    found = blame.blame(small, attacked, other)
    assert found.wrong and found.chosen is not None
    row = found.table.set_index("layer").loc[found.chosen]
    other_network = copy.deepcopy(small.model)
    other_network.get_submodule(found.chosen).weight.data[found.votes[found.chosen].counts > 0] = 0
    with torch.no_grad():
        wanted = other_network(attacked.adversarial[None]).softmax(1)[0]
    assert wanted.argmax() == attacked.truth == row["top"]
    assert row["truth"] == pytest.approx(wanted[attacked.truth].item(), abs=1e-6)
    assert row["part"] == row["blamed"] / row["weights"] == found.table[found.table["blamed"] > 0]["part"].min()
    heat, counts = found.map(found.chosen)
    assert int(counts.sum()) == row["blamed"] and heat.min() >= 0 and heat.max() <= 1
    assert all(torch.equal(state[key], value) for key, value in small.model.state_dict().items())
    if other == blame.CLEAN:
        assert found.companion == blame.CLEAN and torch.equal(found.image, attacked.clean)


def test_where_no_mask_helps_the_clean_image_stands_in_and_is_named(small, monkeypatch):
    real = blame.companions

    def none_found(*arguments, **options):
        made = real(*arguments, **options)
        made.found[:] = False
        return made

    monkeypatch.setattr(blame, "companions", none_found)
    found = blame.blame(small, fooled(small))
    assert (found.asked, found.companion, found.mask) == (blame.MASK, blame.CLEAN, None)
    assert words.of_blame(found, small.classes).startswith("No mask made the network right")


def test_a_network_that_is_right_has_nothing_to_blame(small):
    found = blame.blame(small, attacking.attack_image(small, POSITION, "fgsm_8", 0.01))
    assert not found.wrong and found.chosen is None
    assert "no error to locate" in words.of_blame(found, small.classes)
    with pytest.raises(explore.ExploreError, match="there is no error"):
        draw_blame.blamed(found)
    with pytest.raises(explore.ExploreError, match="one of 'companion', 'clean image'"):
        blame.blame(small, fooled(small), "neighbour")


# ---- pictures


def test_every_panel_is_drawn_and_none_is_left_open(small, profiled):
    before = plt.get_fignums()
    attacked = fooled(small)
    found = slices.compared(small, attacked)
    dynamic = subject(deciding(), "dynamic", side=16)
    path = paths.path_of(dynamic, attacking.attack_image(dynamic, POSITION, "fgsm_8", 200))
    blamed = blame.blame(small, attacked)
    figures = [
        draw.prediction(attacked, attacking.sweep(small, attacked.position, "fgsm_8", count=3), small.classes),
        draw.slice_layers(found),
        *(draw.slice_layer(found, layer) for layer in found.layers),
        draw.path(path),
        draw_blame.blamed(blamed),
        draw_blame.blamed(blamed, "first"),
    ]
    for figure in figures:
        figure.canvas.draw()
        assert all(ax.get_xlabel() or ax.get_title() or ax.get_label() == "<colorbar>" for ax in figure.axes)
    assert plt.get_fignums() == before


def test_a_colour_image_and_one_without_change_are_drawn():
    dynamic = subject(deciding(), "dynamic", side=16)
    attacked = attacking.attack_image(dynamic, POSITION, "fgsm_8", 0)
    sweep = attacking.sweep(dynamic, POSITION, "fgsm_8", count=2)
    titles = [ax.get_title() for ax in draw.prediction(attacked, sweep, dynamic.classes).axes]
    assert "change\nup to 0/255" in titles


# ---- what there is to look at


def test_only_networks_that_are_there_are_offered(monkeypatch):
    monkeypatch.setattr(subjects.zoo, "kept", lambda name, *_: name == "alexnet-b128")
    assert explore.networks("smoke") == ["nnslicer-resnet10", "alexnet-b128"]
    assert explore.deciders("smoke") == []
    monkeypatch.setattr(subjects.zoo, "kept", lambda name, *_: "vgg" in name or "stated" in name)
    assert explore.deciders("cpu")[0] == "dynamic-resnet-stated-b0.5"
    monkeypatch.setattr(subjects.zoo, "kept", lambda *_: True)
    for scale in config.SCALES:
        assert explore.deciders(scale)[0] == "dynamic-resnet-standardised-b0.5"
        assert set(explore.networks(scale)) <= set(config.load(scale).networks)


def test_images_are_found_by_class_and_number(small):
    label = int(small.test.labels[POSITION])
    assert POSITION in small.of_class(label)
    assert all(small.test.labels[k] == label for k in small.of_class(label))
    assert small.peer(POSITION) in set(small.of_class(label)) - {POSITION}


def test_a_damaged_profile_is_made_anew(small, monkeypatch, tmp_path):
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path))
    monkeypatch.setattr(subjects.zoo, "card", lambda *_: {"weights": "sha256:" + "a" * 64})
    monkeypatch.setattr(subjects.data, "load", lambda *_: small.test)
    first = subjects.profile_of(small)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    again = subjects.profile_of(small)
    assert torch.equal(first.input_mean("fc"), again.input_mean("fc"))
    assert isinstance(small.model, Small)
