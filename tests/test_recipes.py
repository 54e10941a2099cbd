"""Every recipe that a scale's file names fits the network that it names."""

import pytest
import torch

from lib import config, recipes


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_network_of_a_scale_can_be_built(scale):
    preset, built = config.load(scale), set()
    for name, recipe in preset.networks.items():
        about = str((recipe.arch, recipe.arch_args, recipe.data))
        if about in built:
            continue
        built.add(about)
        with torch.device("meta"):
            network = recipes.fresh(recipe)
        assert all(parameter.numel() for parameter in network.parameters()), name
