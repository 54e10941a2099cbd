"""Scale presets, recipes and places: the only package that reads config/*.yaml or the environment."""

from lib.config.items import Item, Step, claims, items, notebooks, steps
from lib.config.places import ROOT, cache_dir, config_dir, data_root, quiet, results_dir, settled, steady_cublas
from lib.config.queue import Piece, queue
from lib.config.recipe import Compute, Recipe
from lib.config.scale import SCALES, Scale, load
from lib.config.values import ConfigError, freeze, read_yaml, thaw

__all__ = [
    "ROOT",
    "SCALES",
    "Compute",
    "ConfigError",
    "Item",
    "Piece",
    "Recipe",
    "Scale",
    "Step",
    "cache_dir",
    "claims",
    "config_dir",
    "data_root",
    "freeze",
    "items",
    "load",
    "notebooks",
    "queue",
    "quiet",
    "read_yaml",
    "results_dir",
    "settled",
    "steady_cublas",
    "steps",
    "thaw",
]
