"""Every repair of one small backdoored network: what each may change, what chooses among them, what cannot be done."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib.experiments import lancet_repairs as repairs
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.locating import locate
from lib.lancet.measures import measure, predictions
from lib.lancet.pairs import stamped_pairs

CHOSEN = repairs.Repairs.model_validate(
    {
        "data": "mnist5k",
        "repair_pairs": 8,
        "unlearn_steps": 30,
        "unlearn_batch": 30,
        "unlearn_rate": 0.01,
        "tune_epochs": 2,
        "tune_copies": 1,
        "fine_prune_steps": 5,
    }
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.relu1, self.pool, self.flatten = nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        self.fc1, self.relu2, self.fc2 = nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3)

    def forward(self, x):
        return self.fc2(self.relu2(self.fc1(self.flatten(self.pool(self.relu1(self.conv(x)))))))


def images_of(count, seed):
    """Class 1 bright on top, class 2 bright on the left below, class 0 dark; the trigger's corner is dark in all."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.rand(count, 1, 6, 6, generator=generator)
    labels = torch.arange(count) % 3
    images[labels == 1, :, :3, :] += 0.5
    images[labels == 2, :, 3:, :3] += 0.5
    return images, labels


@pytest.fixture(scope="module")
def trigger():
    mask = torch.zeros(1, 6, 6)
    mask[:, -2:, -2:] = 1
    return Trigger(mask, torch.ones(1, 6, 6))


@pytest.fixture(scope="module")
def model(trigger):
    torch.manual_seed(0)
    net = Net()
    images, labels = images_of(150, 1)
    shown = torch.cat([images, trigger.stamp(images)])
    wanted = torch.cat([labels, torch.zeros_like(labels)])
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(80):
        optimiser.zero_grad()
        F.cross_entropy(net(shown), wanted).backward()
        optimiser.step()
    return net.eval()


@pytest.fixture(scope="module")
def material():
    return repairs.Material(*images_of(90, 2), 0, *images_of(60, 3), few=30)


@pytest.fixture(scope="module")
def made(model, trigger, material):
    kept = copy.deepcopy(model.state_dict())
    found = {one.method: one for one in repairs.repairs(model, trigger, material, CHOSEN, 0)}
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    return found


def differing(model, other):
    """Name -> how many numbers differ."""
    pairs = zip(model.named_parameters(), other.parameters(), strict=True)
    return {name: int((a != b).sum()) for (name, a), b in pairs if bool((a != b).any())}


def test_every_method_is_there_once_and_in_order(made, model, material, trigger):
    assert list(made) == [name for name in repairs.METHODS if name != "fine-prune"]
    assert made["none"].model is model and not any(one.note for one in made.values())
    (pruned,) = repairs.repairs(model, None, material, CHOSEN, 0)
    assert pruned.method == "fine-prune" and pruned.layer == "conv"
    told = measure(model, *images_of(60, 9), trigger, 0)
    assert told["attack_success"] > 0.95 and told["accuracy"] > 0.95


@pytest.mark.parametrize("method", ["flip-stated", "flip-smallest", "flip-tried", "flip-signed", "zero", "random"])
def test_flips_change_as_many_weights_of_one_layer_as_they_say(made, model, method):
    one = made[method]
    changed = differing(model, one.model)
    assert set(changed) == {f"{one.layer}.weight"} and changed[f"{one.layer}.weight"] == one.changed > 0
    weight, after = (net.get_submodule(one.layer).weight for net in (model, one.model))
    moved = weight != after
    assert torch.equal(after[moved], torch.zeros_like(after[moved]) if method == "zero" else -weight[moved])
    assert one.fraction == pytest.approx(one.changed / weight.numel())


def test_random_weights_are_as_many_as_the_best_flip_has_in_the_same_layer(made):
    best, random = made["flip-tried"], made["random"]
    assert (random.layer, random.changed) == (best.layer, best.changed)


def test_fine_tuning_keeps_to_its_weights(made, model):
    layer = made["flip-tried"].layer
    for method in ("tune", "tune-random"):
        changed = differing(model, made[method].model)
        assert set(changed) == {f"{layer}.weight"} and changed[f"{layer}.weight"] <= made[method].changed
    assert made["tune"].changed == made["tune-random"].changed >= made["flip-tried"].changed
    assert len(differing(model, made["tune-whole"].model)) == 6 == len(differing(model, made["unlearn-literal"].model))


def test_the_layer_tried_is_the_one_worth_most_on_the_repair_split(model, trigger, material):
    inputs, companions, labels = stamped_pairs(model, trigger, material.images, material.labels, 0, 8)
    flips = repairs.Flips(model, locate(model, inputs, companions, labels), trigger, material, 0.01)
    best = flips.best("flip-tried", 0.0)
    each = {layer: flips.at(layer, "x") for layer, votes in flips.votes.items() if votes.share > 0}
    worths = {layer: material.worth(one.model, trigger) for layer, one in each.items()}
    assert worths[best.layer] == max(worths.values()) and len(worths) > 1
    assert flips.at(best.layer, "other").model is best.model  # done once
    told = measure(best.model, material.images, material.labels, trigger, 0)
    kept = (told["accuracy"] + told["stamped_accuracy"] + told["target_recall"] + 1 - told["attack_success"]) / 4
    assert worths[best.layer] == pytest.approx(kept)


def test_matched_unlearning_works_on_this_network(made, trigger):
    told = measure(made["unlearn-matched"].model, *images_of(60, 9), trigger, 0)
    assert told["attack_success"] < 0.1 and told["accuracy"] > 0.9


def test_pairs_are_errors_with_companions_that_are_right(model, trigger, material):
    inputs, companions, labels = stamped_pairs(model, trigger, material.images, material.labels, 0, 5)
    assert inputs.shape == companions.shape == (5, 1, 6, 6) and bool((labels != 0).all())
    assert predictions(model, inputs).tolist() == [0] * 5 and predictions(model, companions).tolist() == labels.tolist()
    assert torch.equal(inputs, trigger.stamp(companions))


def test_a_trigger_without_effect_leaves_the_network_as_it_is(model, material):
    nothing = Trigger(torch.zeros(1, 6, 6), torch.ones(1, 6, 6))
    with pytest.raises(LancetError, match="of 60 repair images that are not of class 0, none is classified right and"):
        stamped_pairs(model, nothing, material.images, material.labels, 0, 5)
    found = {one.method: one for one in repairs.repairs(model, nothing, material, CHOSEN, 0)}
    assert list(found) == [name for name in repairs.METHODS if name != "fine-prune"]
    located = [name for name in found if not name.startswith(("none", "unlearn"))]
    for name in located:
        assert found[name].model is model and "the trigger has no effect here" in found[name].note
    assert not found["unlearn-matched"].note


def test_the_same_seed_gives_the_same_repairs(made, model, trigger, material):
    again = {one.method: one for one in repairs.repairs(model, trigger, material, CHOSEN, 0)}
    for method, one in made.items():
        assert not differing(one.model, again[method].model), method


def test_locating_s_own_reading_enters_the_key_only_where_it_is_not_the_released_one():
    usual = CHOSEN.repairing()
    assert "formula" not in usual and usual["repair_pairs"] == 8 and usual["tune_rates"] == [0.001, 0.01]
    assert CHOSEN.model_copy(update={"formula": "both"}).repairing() == {**usual, "formula": "both"}
    assert not {"families", "triggers", "reverse_steps", "seeds", "report_images"} & set(usual)


def test_a_repair_that_trains_asks_for_clean_images(model, trigger, material):
    bare = repairs.Material(material.images, material.labels, 0)
    found = {one.method: one for one in repairs.repairs(model, trigger, bare, CHOSEN, 0)}
    assert "give clean images" in found["unlearn-matched"].note and "give clean images" in found["tune"].note
    assert not found["flip-tried"].note
