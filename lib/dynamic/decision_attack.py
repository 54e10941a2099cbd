"""An attack that knows the decision feature: PGD that also keeps the decisions near those of a clean image.

A detector on the decision feature sees nothing but the units' probabilities. They are a softmax of pooled inputs and
have a gradient; the forest on top has none, so the attack minimises their distance to wanted ones in its place. The
row that runs is the arg-max of the probabilities, which has none either; how gradients of the logits pass it is said
by `gradient`:

    "held"              the rows chosen are constants. This is the derivative of the network as it runs, right
                        wherever no two rows are equally likely, and blind to what changing a row would bring.
    "straight-through"  forward the arg-max row, backward as though the mask were the mean of the rows under the
                        probabilities, so that the attack also learns which decisions help it.

Source: Madry et al. 2018, https://arxiv.org/abs/1706.06083 (PGD); Carlini and Wagner 2017, "Adversarial examples are
not easily detected", https://arxiv.org/abs/1705.07263 (attacks that know the detector); Athalye et al. 2018,
https://arxiv.org/abs/1802.00420, section 4.1 (straight-through estimators against functions without a gradient).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from lib import compute
from lib.detectors.evasion import Evaded, Look, evading_pgd
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection

GRADIENTS = ("held", "straight-through")
Observed = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, C, H, W) -> logits (B, classes) and decision feature (B, F), both with a gradient."""


@contextmanager
def observed(network: LayerwiseChannelSelection, gradient: str = "held") -> Iterator[Observed]:
    """A network as the attack takes it: logits and decision feature of one pass, evaluation mode, parameters frozen.

    Args:
        network: left as found.
        gradient: "held" or "straight-through", see above.
    Raises: DynamicError for another word.
    Source: Athalye et al. 2018, section 4.1, for "straight-through".
    """
    if gradient not in GRADIENTS:
        raise DynamicError(f"gradient is {gradient!r}: one of {', '.join(GRADIENTS)}")
    free = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def both(images: Tensor) -> tuple[Tensor, Tensor]:
        found = network.run(images)
        return found.logits, torch.cat([found.probabilities[layer] for layer in network.layers], 1)

    with ExitStack() as stack:
        stack.enter_context(compute.evaluation(network))
        if gradient == "straight-through":
            stack.enter_context(network.relaxed())
        try:
            for parameter in free:
                parameter.requires_grad_(False)
            yield both
        finally:
            for parameter in free:
                parameter.requires_grad_(True)


def decision_pgd(
    observed: Observed,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    wanted: Tensor,
    weight: float,
    epsilon: float,
    steps: int = 40,
    spread: float = 1.0,
    seed: int = 0,
    batch: int = 100,
    device: torch.device | str = "cpu",
) -> Evaded:
    """PGD in an L_inf ball that minimises cross-entropy to a target class plus `weight` times the decisions' distance.

    Of the iterates that the network misclassifies the one whose decisions are nearest is kept; with weight 0 the last
    one, as by an attacker who does not know the detector.

    Args:
        observed: the network, in evaluation mode.
        images: (N, C, H, W) in [0, 1].
        labels: int64 (N,) true classes.
        targets: int64 (N,) classes to be taken for, other than the labels.
        wanted: (N, F) decision features to stay near, as those of the clean images themselves.
        weight: from 0.
        epsilon: L_inf radius in [0, 1] units.
        steps: gradient steps, from 1.
        spread: squared distance that counts as 1, above 0, as the mean one of clean images to their class mean.
        seed: of the random start.
        batch: images a pass.
        device: where `observed` computes.
    Returns: Evaded.
    Raises: DynamicError for a target that is the label, features of another number, a weight, spread or number of
        steps out of range.
    Source: Madry et al. 2018, section 2.1; the second term is ours, after Carlini and Wagner 2017.
    """
    for fits, message in (
        (not bool((targets == labels).any()), "a target is the image's own class: name another class for each image"),
        (len(wanted) == len(images), f"wanted holds {len(wanted)} decision features for {len(images)} images"),
        (weight >= 0, f"weight is {weight}: from 0"),
        (spread > 0, f"spread is {spread}: above 0 (do the clean images' decisions not differ at all?)"),
        (steps >= 1, f"steps is {steps}: from 1"),
    ):
        if not fits:
            raise DynamicError(message)

    def look_of(rows: Tensor) -> Look:
        aim = wanted[rows].to(device).float()

        def look(x: Tensor) -> tuple[Tensor, Tensor]:
            logits, feature = observed(x)
            return logits, (feature - aim).square().sum(1) / spread

        return look

    return evading_pgd(look_of, images, labels, targets, weight, epsilon, steps, seed, batch, device)
