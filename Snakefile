# train -> evaluate -> notebook -> report. Called by ./run_all.sh; alone: snakemake --workflow-profile profiles/local --cores 2
import os
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)
from lib import config as settings
from lib import engine, store
from lib.engine import jobs

SCALE = config.get("scale", "smoke")
PRESET = settings.load(SCALE)
THREADS = PRESET.compute.threads
# A network whose card is kept is trained by what reads its weights: most that read it have their tables kept, too.
TRAIN = "--retrain" if int(config.get("retrain", 0)) else "--cards"
GPU = int(config.get("gpu", 1))  # that a job asks for; a profile without any says 0
NODES = engine.nodes(PRESET)
STEPS = engine.steps(PRESET)
NOTEBOOKS = engine.notebooks()
ITEMS = settings.items()
os.environ.update(jobs.environment(SCALE, THREADS))


def short(path):
    """Relative to the repository where it lies in it."""
    path = Path(path).absolute()
    return str(path.relative_to(settings.ROOT) if path.is_relative_to(settings.ROOT) else path)


CACHE, RESULTS = short(settings.cache_dir(SCALE)), short(settings.results_dir(SCALE))
PYTHON = sys.executable
# A job ends with the run that started it, and says how it went: lib/engine/jobs.py.
JOB = "exec {PYTHON:q} -m lib.engine job --scale {SCALE} --name {params.name:q} --threads {threads} "
JOB += '--gpus "${{CUDA_VISIBLE_DEVICES-all}}" '


def done(kind, node):
    return f"{CACHE}/engine/done/{kind}/{node.family}-seed{node.seed}.txt"


def several(attacks):
    """fgsm_2 fgsm_4 fgsm_8 -> fgsm_2-and-2-more."""
    first, *more = attacks.split()
    return f"{first}-and-{len(more)}-more" if more else first


def attacked(network, seed, attacks):
    return f"{CACHE}/engine/done/attack/{network}-seed{seed}-{several(attacks)}.txt"


def readers(network, seed, attacks):
    """What reads adversarial sets: where all of it is kept, nobody needs them."""
    return [step.run for step in STEPS if (network, attacks) in step.attacks and step.seed == seed]


def followers(step):
    """The steps that read what a step makes for them alone: none for one that a notebook reads."""
    shown = {name for item in ITEMS.values() if item.study == step.study for name in item.steps}
    after = [other.run for other in STEPS if step.name in other.after and (step.study, step.seed) == (other.study, other.seed)]
    return [] if step.name in shown else after


def stepped(study, name, seed):
    return f"{CACHE}/engine/done/step/{study}-{name}-seed{seed}.txt"


def trained(families, seed):
    """What says that families are trained at a seed, or at the first one where they are not trained at it."""
    found = [[node for node in NODES if node.family == family] for family in families]
    return [done("train", next((node for node in nodes if node.seed == seed), nodes[0])) for nodes in found]


def record_of(item):
    return f"{RESULTS}/numbers/{item}.json"


def ended(notebook):
    return f"{CACHE}/engine/done/notebook/{notebook}"


def plugs(node):
    """Modules that a family's recipes name as hooks and transforms."""
    families = engine.ancestry(PRESET, [node.family])
    recipes = [PRESET.networks[name] for family in families for name in PRESET.families[family]]
    return [plug["use"] for recipe in recipes for plug in (*recipe.hooks, *recipe.transforms, *recipe.prepare)]


def inputs_of(notebook):
    """The evaluated networks of the families that a notebook shows. One that makes no item needs them trained, or,
    where it shows none, every record."""
    families = engine.families(PRESET, notebook)
    if not NOTEBOOKS[notebook]:
        every = [record_of(item) for items in NOTEBOOKS.values() for item in items]
        return trained(families, 0) if families else every
    used = {ITEMS[item].study for item in NOTEBOOKS[notebook]}
    shown = [node for node in NODES if node.family in families]
    ahead = {name for item in NOTEBOOKS[notebook] for name in ITEMS[item].steps}
    return [done(study if engine.evaluated(study) else "train", node) for node in shown for study in used] + [
        stepped(step.study, step.name, step.seed) for step in STEPS if step.study in used and step.name in ahead
    ]


rule all:
    default_target: True
    input:
        f"{RESULTS}/index.html",
        [ended(name) for name in NOTEBOOKS],


for node in NODES:

    rule:
        name:
            f"train_{node.family}_seed{node.seed}"
        input:
            after=[done("train", other) for other in NODES if other.family in node.after and other.seed == node.seed],
            code=engine.sources("lib.zoo", *plugs(node)),
        output:
            done("train", node),
        params:
            name=f"train {node.family} seed {node.seed}",
            family=node.family,
            seed=node.seed,
            recipes=engine.recipes_hash(PRESET, node.family),
        benchmark:
            f"{RESULTS}/benchmarks/train-{node.family}-seed{node.seed}.tsv"
        # The longest chains of families first.
        priority: int(engine.chain(PRESET, NODES, node))
        threads: THREADS
        resources:
            gpu=GPU,
        shell:
            JOB + "--output={output:q} -- {PYTHON:q} -m lib.zoo train --scale {SCALE} "
            "--family {params.family:q} --seed {params.seed} {TRAIN}"


for node, study in [(node, study) for node in NODES for study in engine.studies(PRESET, node.family)]:
    if not engine.evaluated(study):
        continue

    rule:
        name:
            f"evaluate_{study}_{node.family}_seed{node.seed}"
        input:
            networks=done("train", node),
            code=engine.sources(f"lib.experiments.{study}_evaluation"),
        output:
            done(study, node),
        params:
            name=f"evaluate {study} {node.family} seed {node.seed}",
            module=f"lib.experiments.{study}_evaluation",
            family=node.family,
            seed=node.seed,
            settings=store.fingerprint(settings.thaw(PRESET.study[study])),
        benchmark:
            f"{RESULTS}/benchmarks/evaluate-{study}-{node.family}-seed{node.seed}.tsv"
        priority: 10**8
        threads: THREADS
        resources:
            gpu=GPU,
        shell:
            JOB + "--output={output:q} -- {PYTHON:q} -m {params.module} --scale {SCALE} "
            "--family {params.family:q} --seed {params.seed}"


for network, seed, attacks in engine.attacks(STEPS):

    rule:
        name:
            f"attack_{network}_seed{seed}_{several(attacks)}"
        input:
            networks=trained([PRESET.networks[network].family], seed),
            code=engine.sources("lib.attacks.__main__"),
        output:
            attacked(network, seed, attacks),
        params:
            name=f"attack {network} seed {seed} {several(attacks)}",
            network=network,
            seed=seed,
            attacks=attacks.split(),
            readers=readers(network, seed, attacks),
            settings=store.fingerprint([settings.thaw(PRESET.attacks.get(key)) for key in ("images", "chunk", *attacks.split())]),
        benchmark:
            f"{RESULTS}/benchmarks/attack-{network}-seed{seed}-{several(attacks)}.tsv"
        priority: 10**8
        threads: THREADS
        resources:
            gpu=GPU,
        shell:
            JOB + "--output={output:q} --seed={params.seed} --unless-kept {params.readers:q} -- {PYTHON:q} -m lib.attacks --scale {SCALE} "
            "--network {params.network:q} --seed {params.seed} --attack {params.attacks:q}"


for step in STEPS:

    rule:
        name:
            f"step_{step.study}_{step.name}_seed{step.seed}"
        input:
            networks=trained(step.families, step.seed),
            before=[stepped(step.study, name, step.seed) for name in step.after],
            adversarials=[attacked(network, step.seed, attacks) for network, attacks in step.attacks],
            code=engine.sources("lib.evaluations", step.run.partition(":")[0]),
        output:
            stepped(step.study, step.name, step.seed),
        params:
            name=f"step {step.study} {step.name} seed {step.seed}",
            run=step.run,
            seed=step.seed,
            unless="--unless-kept" if followers(step) else "",
            readers=followers(step),
            settings=store.fingerprint(settings.thaw(PRESET.study[step.study])),
        benchmark:
            f"{RESULTS}/benchmarks/step-{step.study}-{step.name}-seed{step.seed}.tsv"
        priority: 10**8
        threads: THREADS
        resources:
            gpu=GPU,
        shell:
            JOB + "--output={output:q} --seed={params.seed} {params.unless} {params.readers:q} -- {PYTHON:q} -m lib.evaluations --scale {SCALE} "
            "--seed {params.seed} --run {params.run:q}"


for notebook, made in NOTEBOOKS.items():

    rule:
        name:
            f"notebook_{notebook}"
        input:
            notebook=f"notebooks/{notebook}.ipynb",
            data=inputs_of(notebook),
            config=short(settings.config_dir() / f"{SCALE}.yaml"),
            code=engine.sources(notebook=settings.ROOT / "notebooks" / f"{notebook}.ipynb"),
        output:
            [record_of(item) for item in made],
            touch(ended(notebook)),
        params:
            name=f"notebook {notebook}",
            about=store.fingerprint([settings.thaw(vars(ITEMS[item])) for item in made]),
        # The executed notebook: as a log it outlives a failure, with the cell that raised in it.
        log:
            f"{RESULTS}/notebooks/{notebook}.ipynb",
        benchmark:
            f"{RESULTS}/benchmarks/notebook-{notebook}.tsv"
        # A finished figure before the next training.
        priority: 10**9
        threads: THREADS
        resources:
            gpu=GPU,
        shell:
            JOB + "--notebook={log:q} -- {PYTHON:q} -m papermill -p scale {SCALE} --cwd notebooks -k python3 "
            "--no-progress-bar --start-timeout 120 -- {input.notebook:q} {log:q}"


rule report:
    input:
        [record_of(item) for items in NOTEBOOKS.values() for item in items],
        [ended(name) for name in NOTEBOOKS],
        short(settings.config_dir() / "claims.yaml"),
        [short(path) for path in [settings.config_dir() / "verdicts.yaml"] if path.exists()],
        engine.sources("lib.report"),
        [short(path) for path in sorted((settings.ROOT / "lib/templates").rglob("*.*"))],
    output:
        f"{RESULTS}/index.html",
    params:
        name="report",
    shell:
        JOB + "-- {PYTHON:q} -m lib.report --scale {SCALE}"
