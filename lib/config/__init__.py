"""Scale presets, recipes and places: the only package that reads config/*.yaml or the environment."""

from lib.config.items import (
    CHANGED,
    Item,
    Piece,
    Sources,
    Step,
    claims,
    foreign,
    item_seeds,
    items,
    notebooks,
    queue,
    sources,
    steps,
)
from lib.config.places import (
    ROOT,
    cache_dir,
    config_dir,
    data_root,
    progress_written,
    quiet,
    results_dir,
    settled,
    steady_cublas,
    training_asked,
)
from lib.config.recipe import Compute, Recipe
from lib.config.scale import SCALES, SECTIONS, Scale, epochs, in_words, load, network_seconds
from lib.config.values import ConfigError, freeze, one_of, read_yaml, thaw
