"""What training a network costs, by the rates that a scale's `estimate:` gives."""

from lib.config.scale import Scale

# Training images of each set; a scale's `estimate: {images: {...}}` overrides it.
TRAIN_IMAGES = {
    "mnist5k": 3500,
    "mnist": 60_000,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
    "gtsrb": 39_209,
    "orl-faces": 280,
    "imagenet-sample": 1000,
    "imagenet": 1_281_167,
}


def network_seconds(scale: Scale, name: str) -> float | None:
    """Images x epochs / rate, times what its hooks cost.

    `estimate:` holds images_per_second, by network, family or architecture, and hook_cost, by the hook's last name.
    """
    recipe, known = scale.networks[name], scale.estimate
    rates = known.get("images_per_second", {})
    rate = rates.get(name) or rates.get(recipe.family) or rates.get(recipe.arch)
    images = images_of(scale, name)
    if not rate or not images:
        return None
    factor = 1.0
    for hook in recipe.hooks:
        factor *= known.get("hook_cost", {}).get(hook["use"].rpartition(".")[2], 1.0)
    return images * epochs(scale, name) * factor / rate


def images_of(scale: Scale, name: str) -> int | None:
    """Training images of a network, an epoch; None where neither the scale nor this package knows the set."""
    recipe = scale.networks[name]
    return recipe.train_limit or scale.estimate.get("images", {}).get(recipe.data) or TRAIN_IMAGES.get(recipe.data)


def epochs(scale: Scale, name: str) -> int:
    """Epochs that a network's own training takes: a branch leaves out those of its trunk."""
    recipe = scale.networks[name]
    return recipe.epochs - ((recipe.start or {}).get("epoch") or 0)


def in_words(seconds: float | None) -> str:
    """A duration as a reader says it: 40 s, 12 min, 3.4 h, 2.1 days; "unknown" for None."""
    if seconds is None:
        return "unknown"
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if unit < 3600 else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86400:.1f} days"
