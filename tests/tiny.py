"""A configuration in which every network trains for a few steps: for tests that run whole notebooks."""

import shutil
from pathlib import Path

import yaml

from lib import config


def write(folder: Path) -> Path:
    """Copy config/ into a folder, its smoke scale made tiny: 128 training images, 40 test images, two eps."""
    folder.mkdir(parents=True)
    for source in (config.ROOT / "config").glob("*.yaml"):
        shutil.copy(source, folder)
    smoke = folder / "smoke.yaml"
    raw = yaml.safe_load(smoke.read_text())
    raw["recipes"]["base"]["train_limit"] = 128
    raw["study"]["robustness"] |= {
        "test_images": 40,
        "epsilons": [0, 16],
        "masking_images": 10,
        "masking_epsilons": [16],
        "pgd_images": 5,
        "cw_images": 3,
        "prunable_images": 40,
    }
    smoke.write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder
