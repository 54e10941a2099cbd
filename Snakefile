# train -> attack -> step -> notebook -> report. Called by ./run_all.sh; alone: snakemake --workflow-profile profiles/local --cores 2
import os
import sys
from functools import cache

sys.path.insert(0, workflow.basedir)
from lib import config as settings
from lib import engine
from lib.engine import jobs, made_from

SCALE = config.get("scale", "smoke")
PRESET = settings.load(SCALE)
THREADS = PRESET.compute.threads
# A network whose card is kept is trained by what reads its weights: most that read it have their tables kept, too.
TRAIN = "--retrain" if int(config.get("retrain", 0)) else "--cards"
NODES = engine.nodes(PRESET)
STEPS = {(step.study, step.name, step.seed): step for step in engine.steps(PRESET)}
NOTEBOOKS = engine.notebooks()
ITEMS = settings.items()
CACHE, RESULTS = (jobs.short(place(SCALE)) for place in (settings.cache_dir, settings.results_dir))
DONE = f"{CACHE}/engine/done"
PYTHON = sys.executable
# A job ends with the run that started it, and says how it went: lib/engine/jobs.py.
JOB = "exec {PYTHON:q} -m lib.engine job --scale {SCALE} --threads {threads} "
JOB += '--gpus "${{CUDA_VISIBLE_DEVICES-all}}" --output {output:q} '
os.environ.update(jobs.environment(SCALE, THREADS))


@cache
def training_made_from(family):
    """What a family's networks are made from, as each of its seeds asks."""
    return made_from.training(PRESET, family)


@cache
def step_made_from(study, name):
    """What a step's results are made from, as each of its seeds asks."""
    return made_from.step(PRESET, next(step for step in STEPS.values() if (step.study, step.name) == (study, name)))


@cache
def attack_made_from(attacks):
    """What adversarial sets are made from, as those of each network and seed ask."""
    return made_from.attack(PRESET, ATTACKS[attacks].split())


def several(attacks):
    """fgsm_2 fgsm_4 fgsm_8 -> fgsm_2-and-2-more."""
    first, *more = attacks.split()
    return f"{first}-and-{len(more)}-more" if more else first


ATTACKS = {several(attacks): attacks for network, seed, attacks in engine.attacks(STEPS.values())}


def trained(families, seed):
    """What says that families are trained at a seed, or at the first one where they are not trained at it."""
    seeds = {family: [node.seed for node in NODES if node.family == family] for family in families}
    return [
        f"{DONE}/train/{family}-seed{int(seed) if int(seed) in known else known[0]}.txt"
        for family, known in seeds.items()
    ]


def stepped(steps):
    return [f"{DONE}/step/{step.study}-{step.name}-seed{step.seed}.txt" for step in steps]


def step_of(wildcards):
    return STEPS[wildcards.study, wildcards.step, int(wildcards.seed)]


def before(step):
    """The steps and the adversarial sets that a step waits for."""
    sets = [f"{DONE}/attack/{network}-seed{step.seed}-{several(attacks)}.txt" for network, attacks in step.attacks]
    return stepped(STEPS[step.study, name, step.seed] for name in step.after) + sets


def readers(wildcards):
    """What reads adversarial sets: where all of it is kept, nobody needs them."""
    made = wildcards.network, ATTACKS[wildcards.attacks]
    return [step.run for step in STEPS.values() if made in step.attacks and step.seed == int(wildcards.seed)]


def followers(step):
    """The steps that read what a step makes for them alone: none for one that a notebook reads."""
    shown = {name for item in ITEMS.values() if item.study == step.study for name in item.steps}
    same = [other for other in STEPS.values() if (other.study, other.seed) == (step.study, step.seed)]
    return [] if step.name in shown else [other.run for other in same if step.name in other.after]


def shown(wildcards):
    """The networks that a notebook shows, trained, and its steps; of one that makes no item and shows none, every
    record."""
    families, made = engine.families(PRESET, wildcards.notebook), NOTEBOOKS[wildcards.notebook]
    if not made:
        others = [f"{DONE}/notebook/{name}" for name, items in NOTEBOOKS.items() if items]
        return trained(families, 0) if families else others
    ahead = {(ITEMS[item].study, name) for item in made for name in ITEMS[item].steps if PRESET.compute.steps}
    found = [f"{DONE}/train/{node.family}-seed{node.seed}.txt" for node in NODES if node.family in families]
    return found + stepped(step for step in STEPS.values() if (step.study, step.name) in ahead)


wildcard_constraints:
    seed=r"\d+",
    study="[^/-]+",
    family="[^/]+",
    network="[^/]+",


rule all:
    default_target: True
    input:
        f"{RESULTS}/index.html",
        [f"{DONE}/notebook/{name}" for name in NOTEBOOKS],


rule train:
    input:
        after=lambda wildcards: [
            path for node in NODES if node.family == wildcards.family for path in trained(node.after, wildcards.seed)
        ],
    output:
        f"{DONE}/train/{{family}}-seed{{seed}}.txt",
    params:
        made_from=lambda wildcards: training_made_from(wildcards.family),
    benchmark:
        f"{RESULTS}/benchmarks/train-{{family}}-seed{{seed}}.tsv"
    threads: THREADS
    shell:
        JOB + "--name 'train {wildcards.family} seed {wildcards.seed}' -- "
        "{PYTHON:q} -m lib.zoo train --scale {SCALE} --family {wildcards.family:q} --seed {wildcards.seed} {TRAIN}"


rule attack:
    input:
        networks=lambda wildcards: trained([PRESET.networks[wildcards.network].family], wildcards.seed),
    output:
        f"{DONE}/attack/{{network}}-seed{{seed}}-{{attacks}}.txt",
    params:
        attacks=lambda wildcards: ATTACKS[wildcards.attacks].split(),
        readers=readers,
        made_from=lambda wildcards: attack_made_from(wildcards.attacks),
    benchmark:
        f"{RESULTS}/benchmarks/attack-{{network}}-seed{{seed}}-{{attacks}}.tsv"
    priority: 1
    threads: THREADS
    shell:
        JOB + "--name 'attack {wildcards.network} seed {wildcards.seed} {wildcards.attacks}' --seed {wildcards.seed} "
        "--unless-kept {params.readers:q} -- {PYTHON:q} -m lib.attacks --scale {SCALE} --network {wildcards.network:q} "
        "--seed {wildcards.seed} --attack {params.attacks:q}"


rule step:
    input:
        networks=lambda wildcards: trained(step_of(wildcards).families, wildcards.seed),
        before=lambda wildcards: before(step_of(wildcards)),
    output:
        f"{DONE}/step/{{study}}-{{step}}-seed{{seed}}.txt",
    params:
        run=lambda wildcards: step_of(wildcards).run,
        unless=lambda wildcards: ["--unless-kept", *kept] if (kept := followers(step_of(wildcards))) else [],
        made_from=lambda wildcards: step_made_from(wildcards.study, wildcards.step),
    benchmark:
        f"{RESULTS}/benchmarks/step-{{study}}-{{step}}-seed{{seed}}.tsv"
    priority: 1
    threads: THREADS
    shell:
        JOB + "--name 'step {wildcards.study} {wildcards.step} seed {wildcards.seed}' --seed {wildcards.seed} "
        "{params.unless:q} -- {PYTHON:q} -m lib.evaluations --scale {SCALE} --seed {wildcards.seed} --run {params.run:q}"


rule notebook:
    input:
        shown,
    output:
        f"{DONE}/notebook/{{notebook}}",
    params:
        records=lambda wildcards: [f"{RESULTS}/numbers/{item}.json" for item in NOTEBOOKS[wildcards.notebook]],
        made_from=lambda wildcards: made_from.notebook(PRESET, wildcards.notebook),
    # The executed notebook: as a log it outlives a failure, with the cell that raised in it.
    log:
        f"{RESULTS}/notebooks/{{notebook}}.ipynb",
    benchmark:
        f"{RESULTS}/benchmarks/notebook-{{notebook}}.tsv"
    # A finished figure before the next training.
    priority: 2
    threads: THREADS
    shell:
        JOB + "--name 'notebook {wildcards.notebook}' --makes {log:q} {params.records:q} -- {PYTHON:q} -m papermill "
        "-p scale {SCALE} --cwd notebooks -k python3 --no-progress-bar --start-timeout 120 -- "
        "notebooks/{wildcards.notebook}.ipynb {log:q}"


rule report:
    input:
        [f"{DONE}/notebook/{name}" for name in NOTEBOOKS],
    output:
        f"{RESULTS}/index.html",
    params:
        made_from=made_from.report(),
    resources:
        gpu=0,
    shell:
        "exec {PYTHON:q} -m lib.engine job --scale {SCALE} --name report -- {PYTHON:q} -m lib.report --scale {SCALE}"
