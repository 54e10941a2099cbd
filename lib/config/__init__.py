"""Scale presets, recipes and places: the only package that reads config/*.yaml or the environment."""

from lib.config.items import Item, Step, claims, items, notebooks, steps
from lib.config.places import ROOT, cache_dir, config_dir, data_root, quiet, results_dir, settled, steady_cublas
from lib.config.recipe import Compute, Recipe
from lib.config.scale import SCALES, Scale, load
from lib.config.sources import Sources, sources
from lib.config.values import ConfigError, freeze, read_yaml, thaw

__all__ = [
    "ROOT",
    "SCALES",
    "Compute",
    "ConfigError",
    "Item",
    "Recipe",
    "Scale",
    "Sources",
    "Step",
    "cache_dir",
    "claims",
    "config_dir",
    "data_root",
    "freeze",
    "items",
    "load",
    "notebooks",
    "quiet",
    "read_yaml",
    "results_dir",
    "settled",
    "sources",
    "steady_cublas",
    "steps",
    "thaw",
]
