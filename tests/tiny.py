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
    for recipe in ("base", "resnet18", "dynamic", "scratch-resnet20", "scratch-vgg16"):
        raw["recipes"][recipe]["train_limit"] = 128
    _merge(
        raw["study"]["robustness"],
        {
            "test_images": 40,
            "epsilons": [0, 16],
            "temperature": {
                "temperatures": [1, 20],
                "masking_images": 10,
                "masking_epsilons": [16],
                "pgd_images": 5,
                "cw_images": 3,
            },
            "spectra": {
                "prunable_images": 40,
            },
            "autoattack": {
                "networks": ["resnet18-b128-adversarial", "fc5-b512-adversarial"],
                "images": 8,
                "steps": 3,
                "targets": 1,
                "queries": 5,
            },
            "bounds": {
                "networks": ["resnet18-b128", "resnet18-b128-adversarial", "fc5-b512", "resnet18-t20"],
                "ray_images": 20,
                "grid_steps": 4,
                "minimal_images": 8,
                "minimal_steps": 4,
            },
        },
    )
    for network in ("nnslicer-resnet10", "nnslicer-resnet18"):  # a class that it never predicts has no profile
        raw["networks"][network] |= {"train_limit": 2000, "epochs": 5}
    # The sets of all attacks are made where the scale `smoke` itself is run.
    few = "fgsm_8 rpgd_8 deepfool_l2 spatial gaussian_blur"
    raw["attacks"] = {name: raw["attacks"][name] for name in few.split()} | {"suite": [few], "images": 12}
    _merge(
        raw["study"]["nnslicer"],
        {
            "profile_per_class": 15,
            "scores_per_class": 6,
            "overhead": {
                "inputs": 3,
                "batches": [1, 3],
                "widths": [2],
                "blocks": [1],
                "profiled": 40,
            },
            "anatomy": {
                "images_per_class": 2,
            },
            "detection": {
                "per_class": 20,
                "forest_trees": 5,
                "means_per_class": 5,
                "fit_per_class": 5,
                "signal_images": 12,
                "signal_clean": 24,
                "signal_trees": 5,
                "adaptive_images": 8,
                "adaptive_steps": 3,
                "adaptive_weights": [0, 1],
            },
            "pruning": {
                "subsets": 3,
                "ratios": [0.4, 0.8],
                "test_images": 100,
                "finetune_subsets": 1,
                "finetune_ratios": [0.8],
                "finetune_images": 100,
            },
            "theta_sweep": {
                "thetas": [0.1, 0.5],
                "images_per_class": 2,
                "subsets": 2,
                "test_images": 100,
            },
            "theta_detection": {"thetas": [0.1, 0.5], "attacks": ["fgsm_8", "deepfool_l2"], "per_class": 20},
            "large": {"images": 60, "scored": 6},
            "protection": {
                "test_images": 100,
                "images": [100, 200],
                "epochs": 1,
                "sweep_shares": [0.5],
                "sweep_images": 100,
            },
        },
    )
    _merge(
        raw["study"]["lancet"],
        {
            "repair_images": 150,
            "report_images": 100,
            "repair_pairs": 4,
            "reverse_images": 20,
            "reverse_steps": 20,
            "companion_steps": 25,
            "backdoors": {
                "flip_images": 40,
                "unlearn_steps": 5,
                "tune_epochs": 1,
                "fine_prune_steps": 5,
            },
            "trojannn": {
                "flip_images": 40,
                "unlearn_steps": 5,
                "tune_epochs": 1,
                "fine_prune_steps": 5,
            },
            "widths": {
                "flip_images": 40,
                "unlearn_steps": 5,
                "tune_epochs": 1,
                "fine_prune_steps": 5,
            },
            "localisation": {
                "pairs": 4,
            },
            "defects": {
                "test_images": 300,
                "pairs": 6,
                "copies": 1,
                "old": 40,
                "epochs": 1,
            },
            "tuning": {
                "test_images": 300,
                "pairs": 6,
                "copies": 1,
                "old": 40,
                "epochs": 1,
            },
            "companions": {
                "images": 6,
            },
            "explanation": {
                "images": 6,
                "pictures": 1,
                "visualisation_steps": 5,
            },
        },
    )
    _merge(
        raw["study"]["dynamic"],
        {
            "gate_images": 80,
            "gate_epochs": 1,
            "latency_repeats": 2,
            "pruning": {
                "images": 100,
                "calibration_images": 100,
                "latency_seconds": 0.01,
            },
            "sweep": {"weights": [1], "images": 100, "calibration_images": 100},
            "curve": {"budgets": [0.5], "images": 100, "calibration_images": 100, "latency_seconds": 0.01},
            "decisions": {
                "images": 100,
                "permutations": 20,
                "rare_images": 2,
                "umap_images": 60,
                "umap_adversarials": 8,
                "umap_attacks": ["fgsm_8", "rpgd_8"],
            },
            "detection": {
                "attacks": ["fgsm_8", "rpgd_8"],
                "fit_images": 100,
                "trees": 5,
                "slices_per_class": 3,
                "slices_images": 12,
                "adaptive_images": 12,
                "adaptive_steps": 2,
                "adaptive_weights": [0, 1],
            },
        },
    )
    smoke.write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder


def _merge(whole: dict, part: dict) -> None:
    """Set what a part says, sections key by key."""
    for key, value in part.items():
        if isinstance(value, dict):
            _merge(whole.setdefault(key, {}), value)
        else:
            whole[key] = value
