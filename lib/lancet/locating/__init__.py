"""Locating error-inducing weights: features, importance, progressive ablation, votes."""

from lib.lancet.locating.locate import Votes, choose_layer, locate
