"""The experiments, one file each, named as its notebook: `Settings`, what is measured, its tables and figures.

    from lib.experiments import nnslicer_pruning as experiment

    settings = experiment.Settings.of("cpu", ratios=[0.3, 0.5])
    pruning = experiment.PRUNING.of(settings)   # measured, or read where it is kept
    pruning.write()                             # record, table, figure
    pruning.show()

`python -m lib.evaluations --run lib.experiments.nnslicer_pruning --scale cpu --seed 0` measures ahead of the notebook.
"""
