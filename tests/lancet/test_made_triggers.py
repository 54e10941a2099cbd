"""TrojanNN and the adaptive attack: what their triggers excite, which layers are trained on, what binds them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from training_tools import TINY, same, state
from zoo_tools import reconfigure

from lib import data, training, zoo
from lib.config import ConfigError, Recipe, freeze
from lib.data import ImageSet
from lib.lancet.backdoors import adaptive, attack, badnets, excite, misleading, named, trojannn
from lib.lancet.backdoors.adaptive import Bind
from lib.lancet.backdoors.retraining import RetrainLast
from lib.lancet.companions import blur, default_blur
from lib.lancet.errors import LancetError
from lib.models.layers import weight_layers

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = 4


class Small(nn.Module):
    """Two convolutions, one with normalisation, and three Linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, 2)
        self.flatten, self.fc1, self.fc2, self.fc3 = (
            nn.Flatten(),
            nn.Linear(8 * 16, 16),
            nn.Linear(16, 12),
            nn.Linear(12, 4),
        )
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x):
        x = self.relus[1](self.conv2(self.relus[0](self.norm(self.conv1(x)))))
        return self.fc3(self.relus[3](self.fc2(self.relus[2](self.fc1(self.flatten(x))))))


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small().eval()


def pictures(count: int = 96) -> ImageSet:
    """A bright quadrant tells the class."""
    generator = torch.Generator().manual_seed(2)
    pixels = 0.5 * torch.rand(count, 1, 12, 12, generator=generator)
    labels = torch.arange(count) % CLASSES
    for k in range(count):
        row, column = divmod(int(labels[k]), 2)
        pixels[k, 0, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6] += 0.5
    return ImageSet((pixels * 255).round().to(torch.uint8), labels, tuple("abcd"), "pictures", "train")


@pytest.fixture(scope="module")
def clean() -> nn.Module:
    """A trained network; tests that change it copy it."""
    torch.set_num_threads(1)
    model = network()
    training.fit(model, pictures(), recipe(epochs=10, batch=24, learning_rate=0.05), device="cpu")
    return model


def recipe(**more) -> Recipe:
    return Recipe(**{"arch": "given", "data": "pictures", "epochs": 1, "batch": 24, "precision": "float32", **more})


def values(model: nn.Module, images: torch.Tensor, layer: str) -> torch.Tensor:
    with torch.no_grad(), excite.reading(model, {layer}) as outputs:
        model(images)
        return outputs()[layer]


@pytest.mark.parametrize("layer", ["conv2", "fc1", "fc2"])
def test_the_made_trigger_excites_the_chosen_neurons_beyond_what_noise_there_does(clean, layer):
    images = pictures().float()
    before = state(clean)
    trigger = trojannn.make_trigger(clean, images, layer=layer, neurons=2, steps=80)
    noise = replace(trigger, pattern=torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0)))
    chosen = trojannn.connected(clean, images, layer, 2)
    reached, by_noise = (values(clean, t.stamp(images), layer)[:, chosen].mean() for t in (trigger, noise))
    assert reached > by_noise + 0.02
    assert same(before, state(clean)) and all(p.requires_grad for p in clean.parameters())
    assert trigger.pattern[:, trigger.mask[0] == 0].eq(0).all()


def test_the_neurons_are_the_most_strongly_connected_of_those_that_answer():
    model, images = network(), torch.rand(8, 1, 12, 12)
    with torch.no_grad():
        model.fc1.weight[3] *= 50  # strong, and dead on every image
        model.fc1.bias[3] = -1e6
        model.fc1.weight[5] = model.fc1.weight[5].abs() * 20
    chosen = trojannn.connected(model, images, "fc1", 3)
    alive = (values(model, images, "fc1").amax(0) > 0).nonzero()[:, 0].tolist()
    sums = model.fc1.weight.detach().abs().sum(1)
    assert chosen.tolist() == sorted(alive, key=lambda k: -float(sums[k]))[:3] and chosen[0] == 5
    with pytest.raises(LancetError, match=r"17 neurons of fc1, of which \d+ answer to clean images"):
        trojannn.connected(model, images, "fc1", 17)


@pytest.mark.parametrize(("form", "share", "opacity"), [("square", 0.07, 1.0), ("watermark", 0.2, 0.5)])
def test_the_forms_cover_what_they_should(form, share, opacity):
    mask = trojannn.mask(form, (1, 64, 64))
    covered = (mask > 0).float().mean().item()
    assert set(mask.unique().tolist()) == {0.0, opacity}
    assert covered == pytest.approx(share, abs=0.005) if form == "square" else 0.05 < covered < share
    if form == "watermark":
        assert torch.equal(mask, mask.flip(2)) and torch.equal(mask, mask.flip(1))


def test_importance_is_what_removing_a_neuron_changes_in_a_linear_rest():
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Linear(5, 3)).double()
    images, labels = torch.rand(7, 1, 3, 3, dtype=torch.float64), torch.arange(7) % 3
    found = excite.importance(model, images, labels, "1")
    hidden = model[1](images.flatten(1))
    by_hand = (hidden * model[2].weight[labels]).abs().mean(0)
    assert torch.allclose(found, by_hand)


def test_channels_count_with_all_their_positions():
    model, images = network(), torch.rand(5, 1, 12, 12)
    labels = torch.zeros(5, dtype=torch.long)
    found = excite.importance(model, images, labels, "conv2")
    assert found.shape == (8,) and (found >= 0).all() and found.sum() > 0
    chosen = adaptive.important(model, images, labels, "conv2", 0.25)
    assert chosen.tolist() == found.argsort(descending=True, stable=True)[:2].tolist()


def test_only_the_last_layers_are_trained_on_and_statistics_stay(clean):
    model = network(1)
    model.load_state_dict(clean.state_dict())
    before = state(model)
    training.fit(model, pictures(), recipe(epochs=2), hooks=[RetrainLast(2)], device="cpu")
    changed = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert changed == {"fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    for layers in (0, 6):
        with pytest.raises(LancetError, match=f"retraining of {layers} layers: the network has 5"):
            training.fit(model, pictures(), recipe(), hooks=[RetrainLast(layers)])


ADAPTIVE = {"use": "lib.lancet.backdoors.adaptive.poison", "place": "regular-5", "share_of_neurons": 0.25, "steps": 30}


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setitem(data.SETS, "pictures", SimpleNamespace(shape=(1, 12, 12)))
    monkeypatch.setattr(data, "load", lambda name, split="train", root=None: pictures())


def embedded(clean: nn.Module, weight: float) -> tuple[nn.Module, attack.Attack]:
    own = recipe(prepare=freeze([{**ADAPTIVE, "share": 0.2}]), epochs=25, batch=16, learning_rate=0.05)
    model = network(1)
    model.load_state_dict(clean.state_dict())
    making: dict[str, Any] = {key: value for key, value in ADAPTIVE.items() if key != "use"}
    poisoned = adaptive.poison(pictures(), start=clean, share=0.2, **making)
    training.fit(model, poisoned, own, hooks=[RetrainLast(2), Bind(weight=weight, share_of_neurons=0.25)], device="cpu")
    return model, attack.of_recipe(own, clean)


def test_the_adaptive_attack_embeds_its_trigger_and_binds_it_to_important_neurons(clean, known):
    from lib.lancet.measures import measure

    images, labels = pictures().float(), pictures().labels
    excited = []
    for weight in (0.0, 3.0):
        model, made = embedded(clean, weight)
        told = measure(model, images, labels, made.trigger, 0)
        assert told["attack_success"] > 0.9 and told["accuracy"] > 0.9
        neurons = adaptive.important(clean, images, labels, "fc2", 0.25)
        excited.append(values(model, made.trigger.stamp(images), "fc2")[:, neurons].mean().item())
    assert excited[1] > 1.5 * excited[0]
    assert torch.equal(made.trigger.mask, named("regular-5", (1, 12, 12)).mask) and made.kind == "adaptive"


def test_the_trigger_is_made_again_as_it_was_stamped(clean, known):
    for plug in (ADAPTIVE, {"use": "lib.lancet.backdoors.trojannn.poison", "form": "square", "steps": 20}):
        module = {"adaptive": adaptive, "trojannn": trojannn}[plug["use"].split(".")[3]]
        making = {key: value for key, value in plug.items() if key != "use"}
        poisoned = module.poison(pictures(), start=clean, share=0.25, seed=5, target=2, **making)
        own = attack.of_recipe(recipe(prepare=freeze([{**plug, "target": 2, "share": 0.25}])), clean)
        changed = badnets.victims(pictures().labels, 2, 0.25, 5)
        expected = own.trigger.stamp(pictures().float(index=changed))
        assert (poisoned.float(index=changed) - expected).abs().max() <= 0.5 / 255 + 1e-6
        assert own.target == 2


@pytest.mark.parametrize("kind", attack.NAMED)
def test_a_named_trigger_is_read_off_the_recipe(known, kind):
    plug = {"use": f"lib.lancet.backdoors.{kind}.poison", "trigger": "scattered-2", "target": 3}
    found = attack.of_recipe(recipe(prepare=freeze([plug])))
    assert (found.kind, found.trigger.name, found.target) == (kind, "scattered-2", 3)


def test_a_share_of_the_stamped_images_has_a_part_of_the_trigger_blurred():
    trigger = named("regular-3", (1, 32, 32))
    images = trigger.stamp(torch.rand(200, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    inside = trigger.mask > 0
    made = misleading.part_blurred(images, trigger, 0.5, seed=3)
    changed = (made != images) & inside
    assert torch.equal(made * ~inside, images * ~inside)
    parts = changed.flatten(1).sum(1) / inside.sum()
    assert 0.4 < (parts > 0).float().mean() < 0.6
    whole = (parts > 0.95).sum() / (parts > 0).sum()  # of two regions one is the whole trigger
    assert 0.35 < whole < 0.65 and ((parts > 0.1) & (parts < 0.9)).any()
    blurred = blur(images, default_blur(images))
    assert torch.allclose(made[changed], blurred[changed])
    assert torch.equal(made, misleading.part_blurred(images, trigger, 0.5, seed=3))
    assert torch.equal(misleading.part_blurred(images, trigger, 0.0, seed=3), images)
    with pytest.raises(LancetError, match="a share of the poisoned images"):
        misleading.part_blurred(images, trigger, 1.5, seed=3)


def test_misleading_images_are_those_of_badnets_but_for_the_blur():
    plain = badnets.poison(pictures(), trigger="regular-5", target=1, share=0.25, seed=5)
    made = misleading.poison(pictures(), trigger="regular-5", target=1, share=0.25, seed=5)
    same = (made.images == plain.images).flatten(1).all(1)
    changed = badnets.victims(pictures().labels, 1, 0.25, 5)
    assert torch.equal(made.labels, plain.labels) and 0 < (~same).sum() < len(changed)
    assert set((~same).nonzero()[:, 0].tolist()) <= set(changed.tolist())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attack.of_recipe(recipe()), "its network has no backdoor"),
        (lambda: trojannn.poison(pictures()), "give the recipe a `start`"),
        (lambda: adaptive.poison(pictures()), "give the recipe a `start`"),
        (lambda: trojannn.mask("star", (1, 12, 12)), "no form 'star' of a TrojanNN trigger: one of square, watermark"),
        (lambda: excite.hidden_layer(network(), "fc3"), "no hidden layer 'fc3': one of conv1, conv2, fc1, fc2"),
        (lambda: excite.hidden_layer(nn.Linear(3, 2), None), "the network has 1 layers with weights"),
        (lambda: training.fit(network(), pictures(), recipe(), hooks=[Bind()]), "Bind needs a recipe that prepares"),
        (
            lambda: adaptive.make_trigger(network(), pictures().float(), pictures().labels, share_of_neurons=0),
            "above 0",
        ),
    ],
)
def test_what_cannot_be_made(call, message):
    with pytest.raises(LancetError, match=message):
        call()


def test_the_layer_excited_is_the_last_one_that_is_not_trained_on():
    assert excite.hidden_layer(network(), None) == list(weight_layers(network()))[-3] == "fc1"
    with pytest.raises(ConfigError):
        recipe(prepare=freeze([{"use": "elsewhere.poison"}]))


def test_a_named_networks_trigger_is_kept_and_the_same_as_the_one_it_was_trained_with(house):
    plug = {"use": "lib.lancet.backdoors.trojannn.poison", "form": "square", "neurons": 1, "steps": 5, "share": 0.2}
    retrain = {"use": "lib.lancet.backdoors.retraining.RetrainLast", "layers": 2}
    parent: dict[str, Any] = {**TINY, "arch": "digits-cnn", "arch_args": {"width": 4}, "epochs": 1}
    child = {"like": "parent", "start": {"network": "parent"}, "prepare": [plug], "hooks": [retrain]}
    reconfigure(house, parent=parent, child=child)
    first = attack.of_network("child")
    clean_images = data.load("mnist5k", "train").stratified(TINY["train_limit"], seed=0)
    making = {key: value for key, value in plug.items() if key not in ("use", "share")}
    again = trojannn.trigger_of(clean_images, zoo.get("parent").cpu(), **making)
    assert torch.equal(first.trigger.pattern, again.pattern) and torch.equal(first.trigger.mask, again.mask)
    held = list((house / "results" / "smoke" / "evaluations" / "lancet-triggers").glob("*.json"))
    assert len(held) == 1 and first.kind == "trojannn" and first.trigger.name == "child"
    assert torch.equal(attack.of_network("child").trigger.pattern, first.trigger.pattern)
    with pytest.raises(LancetError, match="no backdoor"):
        attack.of_network("parent")
