"""Hiding weights and training them anew: what is hidden, what the attacker has, what he may change."""

import copy

import pytest
import torch
from torch import nn
from training_tools import images, recipe, same, state

from lib import training
from lib.slicing import masks, protection, pruning
from slicing.pruning_nets import random_scores, resnet


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


def scored(model: nn.Module) -> dict[str, torch.Tensor]:
    return masks.subset_scores(random_scores(model, top=4), (0, 2))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_hidden_is_exact_and_of_the_largest_scores(share):
    model = resnet()
    scores = scored(model)
    hidden = protection.hidden_masks(model, scores, share)
    assert set(hidden) == set(masks.weight_layers(model)) - {"fc"}
    for name, mask in hidden.items():
        assert int((~mask).sum()) == int(mask.numel() * share)
        if mask.any() and not mask.all():
            assert scores[name][~mask].min() >= scores[name][mask].max()
    with pytest.raises(ValueError, match="no scores of convolution 'stem'"):
        protection.hidden_masks(model, {name: score for name, score in scores.items() if name != "stem"}, share)
    with pytest.raises(ValueError, match="nothing to hide"):
        protection.convolutions(nn.Linear(2, 2))


def test_visible_norm_is_the_mean_over_layers():
    model = resnet()
    layers = protection.convolutions(model)
    chosen = protection.hidden_masks(model, {n: layer.weight.detach().abs() for n, layer in layers.items()}, 0.5)
    by_hand = []
    for layer in layers.values():
        values = sorted(w * w for w in layer.weight.detach().double().flatten().tolist())
        seen = values[: len(values) - len(values) // 2]
        by_hand.append(sum(seen) / sum(values))
    assert protection.visible_norm(model, chosen) == pytest.approx(sum(by_hand) / len(by_hand))
    everything = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
    assert protection.visible_norm(model, everything) == pytest.approx(1)


def test_equal_scores_hide_the_first_filters_whole():
    model = resnet()
    hidden = protection.hidden_masks(model, protection.equal_scores(model), 0.5)
    for name, layer in protection.convolutions(model).items():
        first = layer.out_channels // 2
        assert layer.out_channels % 2 == 0
        assert not hidden[name][:first].any() and hidden[name][first:].all()


def test_random_scores_follow_their_generator():
    model = resnet()
    first, again, other = (protection.random_scores(model, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert set(first) == set(protection.convolutions(model))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem"], other["stem"])


def test_the_attackers_labels_are_the_victims():
    victim, train = resnet(), images(50)
    said = protection.labelled(victim, train, batch=7)
    with torch.no_grad():
        assert torch.equal(said.labels, victim(train.float()).argmax(dim=1))
    assert torch.equal(said.images, train.images)
    assert not torch.equal(said.labels, train.labels)  # an untrained network: else this test shows nothing


def test_the_attacker_trains_convolutions_and_nothing_else():
    victim, train = resnet(), images(80)
    before = state(victim)
    hidden = protection.hidden_masks(victim, scored(victim), 0.5)
    said = protection.labelled(victim, train)
    short = recipe(epochs=2, batch=20, learning_rate=0.05, weight_decay=0.01, schedule="step")
    bank = pruning.Bank.of(images(24, seed=1))
    counts, stolen = protection.retrain(victim, hidden, said, bank, short, seed=1, device="cpu")
    assert same(state(victim), before) and all(p.requires_grad for p in victim.parameters())

    taken = state(stolen)
    for name, layer in protection.convolutions(stolen).items():
        assert layer.weight[~hidden[name]].any(), f"{name}: no hidden weight was recovered"
        assert not torch.equal(layer.weight[hidden[name]], before[f"{name}.weight"][hidden[name]])
    trained = {f"{name}.weight" for name in hidden}
    for name, _ in victim.named_parameters():
        assert torch.equal(taken[name], before[name]) == (name not in trained), name
    assert not torch.equal(taken["bn.running_mean"], before["bn.running_mean"])
    assert not any(p.grad is not None and n not in trained for n, p in stolen.named_parameters())

    assert counts.shape == (3, 4)
    hiding = masks.apply(copy.deepcopy(victim), hidden)
    for row, network in ((0, hiding), (-1, stolen)):
        assert torch.equal(counts[row], pruning.correct_by_class(network, bank, 4, precision="float32"))
    again, _ = protection.retrain(victim, hidden, said, bank, short, seed=1, device="cpu")
    assert torch.equal(again, counts)


def test_watching_does_not_change_the_attack():
    """The network at the end is that of a training which nobody looked at."""
    victim, train = resnet(), images(60)
    hidden = protection.hidden_masks(victim, scored(victim), 0.5)
    short = recipe(epochs=2, batch=20, learning_rate=0.05)
    _, stolen = protection.retrain(victim, hidden, train, pruning.Bank.of(images(24, seed=1)), short, device="cpu")
    alone = masks.apply(copy.deepcopy(victim), hidden)
    for name, parameter in alone.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight") in hidden)
    training.fit(alone, train, short, device="cpu")
    assert same(state(stolen), state(alone))


def test_the_attack_is_the_papers():
    assert protection.ATTACK == {
        "epochs": 10,
        "batch": 256,
        "learning_rate": 0.005,
        "momentum": 0.5,
        "weight_decay": 0.0005,
        "schedule": "step",
    }
    victim, train = resnet(), images(300)
    counts, _ = protection.retrain(victim, {}, train, pruning.Bank.of(images(8)), device="cpu")
    assert counts.shape == (11, 4)
