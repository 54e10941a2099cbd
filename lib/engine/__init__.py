"""What Snakemake cannot do for `run_all.sh`: what is in the graph (the Snakefile asks for it), jobs that end with the
run and share GPUs, one run at a time, progress and the summary; time boxes, which make what can be finished in some
minutes, and the merge of what they made.
"""

from lib.engine.graph import *  # noqa: F403  the Snakefile and the report ask for the graph as engine.nodes, engine.steps
from lib.engine.made_from import sources
