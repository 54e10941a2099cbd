"""The engine's steps and attacks: what is computed between training and notebooks, and in which order."""

import subprocess

import pytest
import yaml
from workshop import SMOKE, Workshop

from lib import config, engine

STEPS = {
    "robustness": {
        "scores": {"run": "lib.robustness.parts:scores", "families": ["dense"]},
        "sheet": {"run": "lib.robustness.parts:sheet", "families": ["dense", "other"], "after": ["scores"]},
        "attacked": {"run": "lib.robustness.parts:attacked", "attacks": "dense", "seeds": 1},
    }
}


def put(shop: Workshop, **steps) -> None:
    """Give the small checkout steps: robustness_one needs `sheet`, robustness_three `attacked`."""
    shop.write("config/steps.yaml", yaml.safe_dump({"robustness": {**STEPS["robustness"], **steps}}, sort_keys=False))
    items = yaml.safe_load((shop.root / "config/items.yaml").read_text())
    items["robustness_one"]["steps"], items["robustness_three"]["steps"] = ["sheet"], ["attacked"]
    shop.write("config/items.yaml", yaml.safe_dump(items))
    shop.configure({**SMOKE, "attacks": {"suite": ["fgsm ifgsm", "pgd"], "images": 10}})


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Workshop:
    made = Workshop(tmp_path / "shop")
    monkeypatch.setenv("NEURONS_CONFIG", str(made.root / "config"))
    monkeypatch.setattr(config, "ROOT", made.root)
    made.without_kernels()
    put(made)
    return made


def test_steps_are_those_that_the_notebooks_show_and_what_they_wait_for(shop):
    every = engine.steps(config.load("smoke"))
    assert [(step.name, step.seed) for step in every] == [
        ("scores", 0),
        ("scores", 1),
        ("sheet", 0),
        ("sheet", 1),
        ("attacked", 0),
    ]
    assert every[2].after == ("scores",) and every[2].families == ("dense", "other")
    assert engine.attacks(every) == [("dense", 0, "fgsm ifgsm"), ("dense", 0, "pgd")]
    assert [step.name for step in engine.steps(config.load("smoke"), ["robustness_three"])] == ["attacked"]


def test_a_pattern_stands_for_all_families_of_the_scale_that_fit(shop):
    put(shop, scores={"run": "lib.robustness.parts:scores", "families": ["o*", "den?e", "*e*"]})
    scale = config.load("smoke")
    assert set(engine.steps(scale)[0].families) == {name for name in scale.families if "e" in name}
    assert engine.steps(scale)[0].families[:2] == ("other", "dense")
    put(shop, scores={"run": "lib.robustness.parts:scores", "families": ["z*"]})
    with pytest.raises(
        config.ConfigError, match=r"step robustness.scores reads family 'z\*', which scale 'smoke' does"
    ):
        engine.steps(scale)


def test_steps_that_cannot_be_are_named(shop):
    put(shop, scores={"run": "a:b", "after": ["sheet"]})
    with pytest.raises(
        config.ConfigError, match="steps of 'robustness' wait for one another: sheet -> scores -> sheet"
    ):
        engine.steps(config.load("smoke"))
    put(shop, sheet={"run": "a:b", "after": ["nothing"]})
    with pytest.raises(config.ConfigError, match=r"no step 'nothing' in config/steps\.yaml: one of scores, sheet"):
        engine.steps(config.load("smoke"))
    put(shop, sheet={"run": "a:b", "needs": ["scores"]})
    with pytest.raises(config.ConfigError, match=r"steps\.yaml: robustness\.sheet: unknown key 'needs'"):
        engine.steps(config.load("smoke"))


def test_a_family_may_be_trained_for_fewer_seeds(shop):
    study = {**SMOKE["study"]["robustness"], "family_seeds": {"other": [1]}}
    shop.configure({**SMOKE, "study": {"robustness": study}})
    preset = config.load("smoke")
    assert engine.seeds(preset, "other") == [1] and engine.seeds(preset, "dense") == [0, 1]


def test_every_step_of_this_package_can_be_found():
    """Each step's families are trained by the items that need it, and its function is there."""
    import importlib

    known = {item.study: item for item in config.items().values()}
    for study, steps in config.steps().items():
        assert study in known
        for step in steps.values():
            module, _, function = step.run.partition(":")
            found = importlib.import_module(module)
            assert not function or callable(getattr(found, function)) or getattr(found, function) in found.ITEMS
            assert function or found.ITEMS
            for scale in config.SCALES:
                assert engine.graph.matching(config.load(scale), step.families, step.run) or not step.families


@pytest.mark.slow
def test_a_run_does_steps_after_training_and_before_notebooks(shop):
    done: subprocess.CompletedProcess = shop.call("--cores", "2")
    assert done.returncode == 0, done.stderr
    ahead = shop.lines("ahead")
    assert sorted(ahead) == sorted(
        ["scores 0", "scores 1", "sheet 0", "sheet 1", "attacked 0", "dense-fgsm+ifgsm 0", "dense-pgd 0"]
    )
    assert ahead.index("scores 0") < ahead.index("sheet 0")
    assert ahead.index("attacked 0") > max(ahead.index("dense-fgsm+ifgsm 0"), ahead.index("dense-pgd 0"))
    order = done.stderr
    assert order.index("done    train dense seed 0") < order.index("start   step robustness scores seed 0")
    assert order.index("done    step robustness sheet seed 1") < order.index("start   notebook 01_one")
    kept = ["lib.robustness.parts:sheet 0", "lib.robustness.parts:attacked 0"]  # what is made for these, nobody needs
    shop.write("cache/smoke/kept.txt", "\n".join(kept))
    for text in ("# one", "# two"):
        (shop.root / "cache/smoke/ahead.txt").unlink()
        for name in ("lib/attacks/__init__.py", "lib/robustness/parts.py"):
            shop.write(name, text)
        assert shop.call().returncode == 0
        assert sorted(shop.lines("ahead")) == ["attacked 0", "scores 1", "sheet 0", "sheet 1"]
    (shop.root / "cache/smoke/kept.txt").unlink()
    (shop.root / "cache/smoke/ahead.txt").unlink()
    shop.write("lib/attacks/__init__.py", "# changed\n")
    assert shop.call("--only", "02_two").returncode == 0
    assert sorted(shop.lines("ahead")) == ["attacked 0", "dense-fgsm+ifgsm 0", "dense-pgd 0"]


@pytest.mark.slow
def test_a_scale_may_leave_its_steps_to_the_notebooks(shop):
    scale = {**SMOKE, "attacks": {"suite": ["pgd"], "images": 10}}
    shop.configure({**scale, "compute": {**SMOKE.get("compute", {}), "steps": False}})
    done = shop.call("--cores", "2")
    assert done.returncode == 0, done.stderr
    assert "step robustness" not in done.stderr and "attack dense" not in done.stderr
    assert not (shop.root / "cache/smoke/ahead.txt").exists()
    assert done.stderr.index("done    train dense seed 0") < done.stderr.index("start   notebook 01_one")
    assert (shop.root / "results/smoke/numbers/robustness_one.json").exists()


def test_whether_steps_are_jobs_is_true_or_false(shop):
    shop.configure({**SMOKE, "compute": {**SMOKE.get("compute", {}), "steps": "no"}})
    with pytest.raises(config.ConfigError, match=r"compute\.steps is 'no': true or false"):
        config.load("smoke")
