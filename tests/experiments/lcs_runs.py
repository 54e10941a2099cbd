"""Experiments on decisions, on a small network and adversarials of one gradient step: nothing is trained or kept."""

import torch
from dynamic import deciding

from lib.experiments.lcs import Attacked, LcsRun

NAME = "dynamic-resnet-standardised-b0.5"
ATTACKS = {"fgsm_8": 0.3, "rpgd_8": 0.15}  # how far an image is moved
ATTACKED = 160


def use(monkeypatch):
    """Let every run read this network, its images and adversarials. Returns: attack -> adversarials."""
    network = deciding.network()
    whole = deciding.image_set(network)
    index = torch.arange(ATTACKED)
    images, labels = whole.images[index], whole.labels[index]
    moved = images.clone().requires_grad_(True)
    gradient = torch.autograd.grad(torch.nn.functional.cross_entropy(network(moved), labels), moved)[0]
    sets = {}
    for attack, size in ATTACKS.items():
        made = (images + size * gradient.sign()).clamp(0, 1)
        with torch.no_grad():
            good = network(made).argmax(1) != labels
        sets[attack] = Attacked(made[good], index[good], labels[good])

    def some(self, split="test", count=None, name=None):
        return whole if count is None else whole.stratified(min(count, len(whole)), seed=0)

    monkeypatch.setattr(LcsRun, "lcs", lambda self, name: network)
    monkeypatch.setattr(LcsRun, "images", some)
    monkeypatch.setattr(LcsRun, "attacked", lambda self, name, names, count=None: (index, sets))
    monkeypatch.setattr(LcsRun, "table", lambda self, kind, key, make, network, version: make())
    return sets
