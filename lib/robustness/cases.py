"""Which named networks a figure of this study shows, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Cases = dict[str, dict[str, Any]]


def pruned(base: str, settings: Mapping[str, Any], **where: Any) -> Cases:
    """The dense network and its pruned twins: name in the zoo -> {**where, sparsity}."""
    found: Cases = {base: {**where, "sparsity": 0.0}}
    return found | {f"{base}-s{s}": {**where, "sparsity": s} for s in settings["sparsities"]}


def low_rank(base: str, settings: Mapping[str, Any], **where: Any) -> Cases:
    """The dense network trained on, its low-rank forms and the nuclear norm's: {**where, variant, rank_ratio}."""
    found: Cases = {f"{base}-dense": {**where, "variant": "dense", "rank_ratio": 1.0}}
    found |= {f"{base}-r{r}": {**where, "variant": "low-rank", "rank_ratio": r} for r in settings["rank_ratios"]}
    return found | {f"{base}-nuclear": {**where, "variant": "nuclear", "rank_ratio": 1.0}}


def temperatures(settings: Mapping[str, Any]) -> Cases:
    """The networks trained at each temperature: {temperature}."""
    return {f"resnet18-t{t}": {"temperature": t} for t in settings["temperatures"]}


def spectra(settings: Mapping[str, Any]) -> Cases:
    """Dense and adversarially trained twins of each architecture, and networks made sparse or low-rank."""
    found: Cases = {}
    for network, base in (("resnet18", "resnet18-b128"), ("alexnet", "alexnet-b128"), ("fc5", "fc5-b512")):
        found[base] = {"network": network, "variant": "dense"}
        found[f"{base}-adversarial"] = {"network": network, "variant": "adversarial"}
        found[f"{base}-s{max(settings['sparsities'])}"] = {"network": network, "variant": "pruned"}
    found[f"resnet18-b128-r{min(settings['rank_ratios'])}"] = {"network": "resnet18", "variant": "low-rank"}
    found["resnet18-b128-nuclear"] = {"network": "resnet18", "variant": "nuclear"}
    return found
