"""Locating error-inducing weights: features, importance, progressive ablation, votes."""

from lib.lancet.locating.locate import locate
from lib.lancet.locating.votes import Votes, choose_layer
