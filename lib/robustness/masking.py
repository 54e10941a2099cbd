"""Is it robustness, or a gradient that the attacker cannot see? The examination of networks trained at high T.

At temperature 1 the logits of a network trained at T are T times too large for the softmax: p_y rounds to 1, the
cross-entropy's gradient is zero or what rounding leaves, and FGSM follows noise. Three things tell: the same gradient
without the cancellation, the diagnostics below, and a control that multiplies an ordinary network's logits by T.

Source: Maestrati 2020, Figures 7 and 8; Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of
security", ICML 2018, https://arxiv.org/abs/1802.00420; Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644;
Madry et al. 2018, https://arxiv.org/abs/1706.06083.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import eagerpy
import foolbox
import pandas as pd
import torch
from torch import Tensor, nn

from lib.attacks.goal import attackable
from lib.compute import evaluation
from lib.robustness.fgsm import batches, check, cross_entropy_gradient, fgsm_correct, image_gradient, known
from lib.robustness.temperature import ScaledLogits

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, classes), labels (B,)) -> (B,) loss to ascend."""


def exact_sign_loss(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """logsumexp over k != y of g_k / T, less g_y / T: its gradient has the cross-entropy's sign and never cancels.

    Cross-entropy is softplus of it, so its gradient is (1 - p_y) > 0 times this one's; where p_y rounds to 1 only
    this one is left.

    Args:
        logits: (B, classes), two classes or more.
        labels: (B,) true classes.
        temperature: T > 0.

    Returns:
        (B,).
    """
    known(labels, logits)
    scaled = logits / temperature
    others = scaled.scatter(1, labels[:, None], -torch.inf)
    return others.logsumexp(dim=1) - scaled.gather(1, labels[:, None])[:, 0]


def exact_sign_gradient(model: nn.Module, images: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Gradient of `exact_sign_loss` with respect to the images, (B, C, H, W)."""
    return image_gradient(lambda logits: exact_sign_loss(logits, labels, temperature).sum(), model, images)


@dataclass(frozen=True)
class Diagnosis:
    """What the cross-entropy's gradient at one temperature is worth, as shares of images (or of pixels, the last)."""

    zero_gradient_share: float
    confident_share: float
    sign_agreement: float
    n: int


def diagnose(
    model: nn.Module, images: Tensor, labels: Tensor, temperature: float = 1.0, batch_size: int | None = None
) -> Diagnosis:
    """Zero gradients, saturated probabilities, and agreement with the gradient that does not cancel.

    Args:
        model, images, labels: as in `fgsm_sweep`.
        temperature: of the attacker's loss; 1 for the one who does not know T.
        batch_size: images a pass, as in `fgsm_sweep`.

    Returns:
        Shares in [0, 1]: of images whose gradient is zero at every pixel; of images with p_y == 1; of pixels where the
        two gradients have the same sign, among those where the exact one is not zero, averaged over images.

    Raises:
        ValueError: as in `fgsm_sweep`.
    """
    images, labels = check(images, labels, [0.0], temperature, batch_size)
    zero = confident = agreement = 0.0
    for _, x, y in batches(model, images, labels, batch_size):
        with evaluation(model):
            plain = cross_entropy_gradient(model, x, y, temperature).flatten(1)
            exact = exact_sign_gradient(model, x, y, temperature).flatten(1)
            with torch.no_grad():
                p = (model(x) / temperature).softmax(dim=1).gather(1, y[:, None])
        zero += float((plain == 0).all(dim=1).sum())
        confident += float((p == 1).sum())
        told = exact != 0
        same = ((plain.sign() == exact.sign()) & told).sum(dim=1)
        agreement += float((same / told.sum(dim=1).clamp(min=1)).sum())
    n = len(images)
    return Diagnosis(zero / n, confident / n, agreement / n, n)


class _Pgd(foolbox.attacks.LinfPGD):
    """Foolbox's PGD, ascending a loss of our choice."""

    def __init__(self, loss: Loss, steps: int, rel_stepsize: float) -> None:
        super().__init__(rel_stepsize=rel_stepsize, steps=steps, random_start=True)
        self.loss = loss

    def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
        return lambda inputs: eagerpy.astensor(self.loss(model(inputs).raw, labels.raw).sum())


def pgd_correct(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
    loss: Loss,
    steps: int = 10,
    rel_stepsize: float = 0.25,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Whether each image is still classified as its label after PGD in the L_inf ball, for each eps.

    Args:
        model, images, labels, epsilons: as in `fgsm_sweep`.
        loss: ascended, e.g. `exact_sign_loss`.
        steps, rel_stepsize: gradient steps, and the size of each in units of eps.
        seed: of the random starts.
        batch_size: images a pass, as in `fgsm_sweep`.

    Returns:
        bool (E, N) on the CPU.

    Source: Madry et al. 2018, as Foolbox's LinfPGD.
    """
    images, labels = check(images, labels, epsilons, batch_size=batch_size)
    attack = _Pgd(loss, steps, rel_stepsize)
    with attackable(model, seed) as target:
        parts = [
            ~attack(target, x, y, epsilons=[float(e) for e in epsilons])[2].cpu()
            for _, x, y in batches(model, images, labels, batch_size)
        ]
    return torch.cat(parts, dim=1)


def cw_distances(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int = 100,
    binary_search_steps: int = 5,
    stepsize: float = 0.05,
    initial_const: float = 1.0,
    batch_size: int | None = None,
) -> Tensor:
    """L2 distance of the nearest adversarial image that Carlini and Wagner's attack finds within bounded steps.

    Its loss is a difference of logits, which no temperature saturates.

    Args:
        model, images, labels: as in `fgsm_sweep`.
        steps, binary_search_steps: gradient steps for each constant, and constants tried.
        stepsize, initial_const: of Foolbox's L2CarliniWagnerAttack.
        batch_size: images a pass, as in `fgsm_sweep`.

    Returns:
        float (N,) on the CPU: 0 where the image is misclassified as it is, infinity where nothing was found.

    Source: Carlini and Wagner 2017, section V, as Foolbox's L2CarliniWagnerAttack.
    """
    images, labels = check(images, labels, [0.0], batch_size=batch_size)
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=binary_search_steps, steps=steps, stepsize=stepsize, initial_const=initial_const
    )
    found = []
    with attackable(model, seed=0) as target:
        for _, x, y in batches(model, images, labels, batch_size):
            with torch.no_grad():
                wrong = model(x).argmax(dim=1) != y
            _, adversarial, success = attack(target, x, y, epsilons=None)
            distance = (adversarial - x).flatten(1).norm(dim=1)
            # Where Foolbox found nothing it hands back a black image, and calls it a success if that is misclassified.
            missed = (adversarial == 0).flatten(1).all(dim=1) | ~success
            distance = torch.where(missed, torch.inf, distance)
            found.append(torch.where(wrong, 0.0, distance).cpu())
    return torch.cat(found)


def examine(
    model: nn.Module,
    twin: nn.Module | None,
    images: Tensor,
    labels: Tensor,
    temperature: float,
    epsilons: Sequence[float],
    pgd_images: int = 200,
    cw_images: int = 50,
    seed: int = 0,
    batch_size: int | None = None,
    pgd_steps: int = 10,
) -> pd.DataFrame:
    """Attacks that gradient masking stops and attacks that it does not, on a network trained at T and on the control.

    Two networks are examined: "trained", the model, and "post-hoc", its T = 1 twin with logits times T (left out
    without a twin or at T = 1). Attacks, as `accuracy` at each eps:

    - fgsm-unaware, fgsm-aware: cross-entropy at temperature 1, and at T;
    - fgsm-exact-sign, fgsm-exact-sign-aware: the loss of the same sign that does not cancel, at 1 and at T;
    - pgd-unaware, pgd-aware (trained only), pgd-exact-sign (at 1): Foolbox's LinfPGD, steps of eps / 4 from a random
      start;
    - transfer (trained only): FGSM made on the twin at temperature 1;
    - cw (trained only): Carlini-Wagner, accuracy within L2 distance eps sqrt(C H W), a ball around that of L_inf.

    Attacks at T = 1 are the unaware ones alone. Diagnostics, of cross-entropy at temperature 1: `zero_gradient_share`,
    `confident_share`, `sign_agreement` (see `diagnose`). Also `cw_success` among correctly classified images and
    `cw_median_l2`, the median distance where it succeeds.

    Args:
        model: network trained at T, used at its raw logits g.
        twin: network trained alike at T = 1, or None.
        images, labels: as in `fgsm_sweep`.
        temperature: T > 0.
        epsilons: L_inf distances in [0, 1].
        pgd_images, cw_images: these attacks take the first so many images; 0 leaves them out.
        seed: of PGD's random starts.
        batch_size: images a pass, as in `fgsm_sweep`.
        pgd_steps: of PGD, >= 1.

    Returns:
        One row a number: name, value, unit, n, temperature, network, attack, epsilon (NaN where a
        number has none).

    Raises:
        ValueError: as in `fgsm_sweep`.
    """
    images, labels = check(images, labels, epsilons, temperature, batch_size)
    rows: list[dict[str, Any]] = []
    networks = {"trained": model}
    if twin is not None and temperature != 1:
        networks["post-hoc"] = ScaledLogits(twin, temperature)
    aware = [] if temperature == 1 else [("-aware", temperature)]
    few, few_labels = images[:pgd_images], labels[:pgd_images]

    for network, net in networks.items():
        where: dict[str, Any] = {"temperature": float(temperature), "network": network}

        def accuracies(attack: str, correct: Tensor, where: dict[str, Any] = where) -> None:
            for epsilon, share in zip(epsilons, correct.double().mean(dim=1).tolist(), strict=True):
                rows.append(_row("accuracy", share, correct.shape[1], **where, attack=attack, epsilon=float(epsilon)))

        for suffix, loss_temperature in [("-unaware", 1.0), *aware]:
            accuracies(f"fgsm{suffix}", fgsm_correct(net, images, labels, epsilons, loss_temperature, batch_size))
        for suffix, loss_temperature in [("", 1.0), *aware]:
            correct = fgsm_correct(net, images, labels, epsilons, loss_temperature, batch_size, exact_sign_gradient)
            accuracies(f"fgsm-exact-sign{suffix}", correct)
        if len(few):
            # Of the control, PGD that knows T is PGD on the twin as it is: nothing to learn.
            told = aware if network == "trained" else []
            losses = {f"pgd{suffix}": _cross_entropy(t) for suffix, t in [("-unaware", 1.0), *told]}
            for attack, loss in {**losses, "pgd-exact-sign": exact_sign_loss}.items():
                correct = pgd_correct(net, few, few_labels, epsilons, loss, pgd_steps, seed=seed, batch_size=batch_size)
                accuracies(attack, correct)
        if network == "trained" and twin is not None and temperature != 1:
            correct = fgsm_correct(net, images, labels, epsilons, 1.0, batch_size, _gradient_of(twin))
            accuracies("transfer", correct)
        if network == "trained" and cw_images:
            some, some_labels = images[:cw_images], labels[:cw_images]
            # The constants of the search weigh logits against distance, so they shrink as the logits grow with T.
            distances = cw_distances(net, some, some_labels, initial_const=1.0 / temperature, batch_size=batch_size)
            budgets = torch.tensor([float(e) for e in epsilons]) * images[0].numel() ** 0.5
            accuracies("cw", distances > budgets[:, None])
            attacked = distances[distances > 0]
            found = attacked[attacked.isfinite()]
            if len(attacked):
                rows.append(_row("cw_success", len(found) / len(attacked), len(attacked), **where, attack="cw"))
            if len(found):
                median = float(found.median())
                rows.append(
                    _row("cw_median_l2", median, len(found), "L2 distance, images in [0, 1]", **where, attack="cw")
                )
        found_shares = diagnose(net, images, labels, 1.0, batch_size)
        for name in ("zero_gradient_share", "confident_share", "sign_agreement"):
            unit = "fraction of pixels" if name == "sign_agreement" else "fraction of test images"
            rows.append(_row(name, getattr(found_shares, name), found_shares.n, unit, **where))
    columns = ["name", "value", "unit", "n", "temperature", "network", "attack", "epsilon"]
    return pd.DataFrame(rows, columns=columns)


def _row(name: str, value: float, n: int, unit: str = "fraction of test images", **where: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "n": n, **where}


def _cross_entropy(temperature: float) -> Loss:
    return lambda logits, labels: nn.functional.cross_entropy(logits / temperature, labels, reduction="none")


def _gradient_of(source: nn.Module) -> Callable[[nn.Module, Tensor, Tensor, float], Tensor]:
    def gradient(_: nn.Module, images: Tensor, labels: Tensor, temperature: float) -> Tensor:
        with evaluation(source):
            return cross_entropy_gradient(source, images, labels, temperature)

    return gradient
