"""What the studies of decisions look at: networks, what their units see and decide, adversarials, and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import attacks, compute, config, data, evaluations, zoo
from lib.data import ImageSet
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection

VERSION = 1  # raise it when a change in these studies' code changes their numbers
INSERT = "lib.dynamic.lcs.network.insert"

DEFAULTS: dict[str, Any] = {
    "attack_images": {},
    "decision_networks": None,
    "detection_networks": None,
    "decision_images": 10000,
    "permutations": 200,
    "rare_images": 8,
    "umap_networks": None,
    "umap_images": 5000,
    "umap_adversarials": 300,
    "umap_attacks": ["fgsm_8", "rpgd_8", "cw_l2"],
    "umap_neighbours": 15,
    "detection_attacks": ["fgsm_8", "rpgd_8", "cw_l2", "deepfool_l2"],
    "detection_images": 600,
    "detection_fit": 2000,
    "detection_trees": 300,
    "slices_per_class": 50,
    "slices_images": 300,
    "adaptive_images": 200,
    "adaptive_epsilon": 8,
    "adaptive_steps": 40,
    "adaptive_weights": [0, 1, 10, 100],
    "adaptive_attack": "rpgd_8",
}
"""Settings of `study.dynamic` that a scale may leave out.

attack_images: attack -> images that it attacks here, where fewer than the scale has it attack; decision_networks,
umap_networks, detection_networks: names of networks with decision units (None: all of the scale
that choose and that no other starts from); decision_images: test images whose choices are counted; permutations: of
the classes; rare_images: shown; umap_*: training images, adversarials an attack, attacks, neighbours; detection_*:
attacks, images attacked, clean training images for detectors, trees of a forest; slices_per_class, slices_images:
training images behind NNSlicer's means, and images attacked that are sliced; adaptive_*: images attacked, epsilon in
255ths, steps, weights of the decisions, and the attack whose adversarials the detectors have been shown.
"""


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of the studies of dynamic pruning, with `DEFAULTS` for what it leaves out.

    Raises: AttackError for an attack in attack_images that does not exist.
    """
    chosen = evaluations.settings(scale, "dynamic", DEFAULTS)
    for name in chosen["attack_images"]:
        attacks.find(name)
    return chosen


def networks(scale: str, which: str = "decision_networks") -> list[str]:
    """The networks with decision units that a study looks at.

    Args:
        scale: smoke, cpu, gpu or paper.
        which: the setting that names them.
    Raises: DynamicError where the scale has none.
    """
    named = settings(scale)[which]
    if named:
        return list(named)
    preset = config.load(scale)
    with_units = [name for name in preset.networks if _has_units(preset, name)]
    parents = {recipe.start["network"] for recipe in preset.networks.values() if recipe.start is not None}
    found = [name for name in with_units if name not in parents and not _static(preset.recipe(name))]
    if not found:
        raise DynamicError(
            f"config/{scale}.yaml: no network has decision units: give one a transform {{use: {INSERT}}}, or name "
            f"networks in study.dynamic.{which}"
        )
    return found


def _has_units(preset: config.Scale, name: str) -> bool:
    recipe = preset.recipe(name)
    if any(plug["use"] == INSERT for plug in recipe.transforms):
        return True
    return recipe.start is not None and _has_units(preset, recipe.start["network"])


def _static(recipe: config.Recipe) -> bool:
    """Whether training leaves one mask a layer: a control, with nothing to decide."""
    return any(plug.get("choose") == "static" for plug in recipe.hooks)


@lru_cache(maxsize=1)
def network_of(scale: str, seed: int, name: str) -> LayerwiseChannelSelection:
    """A named network with decision units. Raises: DynamicError for a network without."""
    found = zoo.get(name, scale, seed)
    if not isinstance(found, LayerwiseChannelSelection):
        raise DynamicError(f"network {name} has no decision units: give its recipe a transform {{use: {INSERT}}}")
    return found


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network makes of some images; float32 on the CPU.

    Attributes:
        logits: (N, classes).
        feature: (N, sum of m), the decision feature: probabilities of all layers side by side.
        pooled: layer -> (N, C_in), what the layer's unit decides from.
        penultimate: (N, F), what enters the last fully connected layer.
    """

    logits: Tensor
    feature: Tensor
    pooled: Mapping[str, Tensor]
    penultimate: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def predicted(self) -> Tensor:
        """The network's answers, int64 (N,)."""
        return self.logits.argmax(1)

    def take(self, rows: Any) -> Seen:
        """Some of the images, by positions or a mask."""
        rows = torch.as_tensor(np.asarray(rows))
        pooled = {layer: values[rows] for layer, values in self.pooled.items()}
        return Seen(self.logits[rows], self.feature[rows], pooled, self.penultimate[rows])


def see(network: LayerwiseChannelSelection, images: Tensor | ImageSet, batch: int = 500) -> Seen:
    """Run a network in evaluation mode and keep what its units see and decide.

    Args:
        network: left as found.
        images: (N, C, H, W) in [0, 1], on any device; or an image set.
        batch: images a pass.
    Raises: DynamicError without images.
    """
    if not len(images):
        raise DynamicError("no images to look at: an attack may have had no success on this network")
    device = network.device
    last = [module for module in network.network.modules() if isinstance(module, nn.Linear)][-1]
    kept: dict[str, Tensor] = {}
    parts: list[dict[str, Tensor]] = []
    handles = [last.register_forward_pre_hook(lambda _, inputs: kept.__setitem__("penultimate", inputs[0].flatten(1)))]
    for layer in network.layers:
        handles.append(network.network.get_submodule(layer).register_forward_pre_hook(_pooled(network, layer, kept)))
    try:
        with compute.evaluation(network), torch.no_grad():
            for start in range(0, len(images), batch):
                rows = torch.arange(start, min(start + batch, len(images)))
                part = images.float(device, rows) if isinstance(images, ImageSet) else images[rows].float().to(device)
                passed = network.run(part)
                kept["logits"] = passed.logits
                kept["feature"] = torch.cat([passed.probabilities[layer] for layer in network.layers], 1)
                parts.append({name: value.float().cpu() for name, value in kept.items()})
    finally:
        for handle in handles:
            handle.remove()
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    pooled = {layer: whole[f"pooled {layer}"] for layer in network.layers}
    return Seen(whole["logits"], whole["feature"], pooled, whole["penultimate"])


def _pooled(network: LayerwiseChannelSelection, layer: str, kept: dict[str, Tensor]) -> Any:
    unit = network.unit(layer)
    return lambda _, inputs: kept.__setitem__(f"pooled {layer}", unit.pooled(inputs[0]))


def choices(network: LayerwiseChannelSelection, feature: Tensor) -> Tensor:
    """The row that each image takes in each layer, int64 (N, layers), from a decision feature (N, sum of m)."""
    sizes = [len(network.unit(layer).weight) for layer in network.layers]
    return torch.stack([part.argmax(1) for part in feature.split(sizes, 1)], 1)


def untrained_feature(network: LayerwiseChannelSelection, pooled: Mapping[str, Tensor], seed: int = 0) -> Tensor:
    """What units that were never trained decide about the same inputs of the same layers: a control.

    Their rows are drawn as those of a new unit; pooling, standardising and the scale of the logits are the network's.

    Args:
        network: whose units' sizes and form are taken.
        pooled: from `Seen`.
        seed: of the rows.
    Returns: float32 (N, sum of m).
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for layer in network.layers:
        unit = network.unit(layer)
        rows = nn.functional.normalize(torch.randn(unit.weight.shape, generator=generator), dim=1)
        parts.append((unit.logit_scale * pooled[layer] @ rows.T).softmax(1))
    return torch.cat(parts, 1)


def noise_like(clean: Tensor, adversarial: Tensor, seed: int = 0) -> Tensor:
    """Clean images with random signs added, as far from them in L2 norm as the adversarial ones are.

    Args:
        clean, adversarial: (N, C, H, W) in [0, 1].
        seed: of the signs.
    Returns: (N, C, H, W) in [0, 1]; the signs' size makes up for what the cut to [0, 1] takes off.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, clean.shape, generator=generator) * 2.0 - 1
    wanted = (adversarial - clean).flatten(1).norm(dim=1)
    size = wanted / clean[0].numel() ** 0.5
    for _ in range(10):  # a fixed point: each round brings the norm after the cut nearer to the one wanted
        noisy = (clean + signs * size[:, None, None, None]).clamp(0, 1)
        size = size * wanted / (noisy - clean).flatten(1).norm(dim=1).clamp_min(1e-12)
    return noisy


@dataclass(frozen=True, eq=False)
class Attacked:
    """Adversarials of one attack that the network misclassifies now.

    Attributes:
        images: (N, C, H, W) in [0, 1].
        index: int64 (N,) positions in the test set of the images they were made of.
        labels: int64 (N,) true classes.
        success_rate: share of the attacked images.
    """

    images: Tensor
    index: Tensor
    labels: Tensor
    success_rate: float


def attacked(
    scale: str, seed: int, name: str, names: Sequence[str], count: int | None = None
) -> tuple[Tensor, dict[str, Attacked]]:
    """The scale's adversarial sets of a network.

    Args:
        scale, seed, name: of the network.
        names: attacks of `lib.attacks.SUITE`.
        count: images attacked that are looked at, the classes taking turns; None: all.
    Returns: positions in the test set of these images; attack -> its successes, attacks without left out.
    """
    fewer = settings(scale)["attack_images"]
    made = {attack: attacks.adversarials(name, scale, seed, name=attack, images=fewer.get(attack)) for attack in names}
    started = max((one.index for one in made.values()), key=len)[:count]  # the shorter sets are parts of the longest
    found = {}
    for attack, one in made.items():
        here = torch.isin(one.index, started)
        good = one[one.success & here]
        if len(good):
            rate = one.success[here].double().mean().item()
            found[attack] = Attacked(good.images, good.index, good.labels, rate)
    return started, found


@lru_cache(maxsize=4)
def images_of(scale: str, name: str, split: str, count: int) -> ImageSet:
    """`count` images of a network's own data set, equally from each class, the same for every seed."""
    whole = data.load(data_of(scale, name), split)
    return whole.stratified(min(count, len(whole)), seed=0)


def about(network: LayerwiseChannelSelection, name: str) -> dict[str, Any]:
    """What a row of a table says of its network: name and form of the units."""
    return {"network": name, "form": network.form}


def attack_key(scale: str, names: Sequence[str]) -> dict[str, Any]:
    """What the adversarial sets of some attacks depend on beside the network's weights."""
    plans = {name: _plan(scale, name) for name in names}
    return {name: {"images": plan.images, **plan.parameters} for name, plan in plans.items()}


def _plan(scale: str, name: str) -> attacks.Plan:
    return attacks.plan(name, scale, settings(scale)["attack_images"].get(name))


def data_of(scale: str, name: str) -> str:
    """The data set that a network is trained on."""
    return config.load(scale).recipe(name).data


def about_attacks(scale: str, names: Sequence[str]) -> dict[str, Any]:
    """A scale's settings of attacks, by the words that describe them."""
    words: dict[str, Any] = {}
    for name in names:
        plan, label = _plan(scale, name), attacks.SUITE[name].label
        words[f"images under {label}"] = plan.images
        for key, value in plan.parameters.items():
            shown = f"{255 * value:.4g}/255" if key == "epsilon" else value
            words[f"{key.replace('_', ' ')} of {label}"] = shown
    return words
