"""python -m lib.engine run|job|summary: what run_all.sh and the Snakefile call."""

import argparse
import sys
from pathlib import Path

from lib import config
from lib.engine import jobs, run, summary


def main(arguments: list[str] | None = None) -> int:
    """Parse and carry out one command; its exit status: 0 done, 1 a job failed, 2 asked for what does not exist."""
    parser = argparse.ArgumentParser(prog="python -m lib.engine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("run", help="bring a scale up to date, or with --dry-run say what that takes")
    whole.add_argument("--cores", type=int)
    whole.add_argument("--only", action="append", default=[])
    whole.add_argument("--profile", default="local")
    whole.add_argument("--dry-run", action="store_true")
    whole.add_argument("--retrain", action="store_true")
    last = commands.add_parser("summary", help="print what the last run did")
    one = commands.add_parser("job", help="run one command of the graph")
    one.add_argument("--name", required=True)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--output", type=Path)
    one.add_argument("--notebook", type=Path)
    one.add_argument("--gpus", default="all")
    one.add_argument("--unless-kept", nargs="+", default=[], metavar="RUN", help="steps; with all kept, do nothing")
    one.add_argument("--seed", type=int, default=0, help="of those steps")
    one.add_argument("words", nargs="+", help="the command, after --")
    for each in (whole, last, one):
        each.add_argument("--scale", default="smoke", choices=config.SCALES)
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "run":
            return run.run(asked.scale, asked.cores, asked.only, asked.profile, asked.dry_run, asked.retrain)
        if asked.command == "job":
            ask = ["--scale", asked.scale, "--seed", str(asked.seed), "--kept", "--run", *asked.unless_kept]
            return jobs.job(
                asked.scale,
                asked.name,
                asked.words,
                asked.threads,
                asked.output,
                asked.notebook,
                asked.gpus,
                [sys.executable, "-m", "lib.evaluations", *ask] if asked.unless_kept else (),
            )
        print(summary.summary(asked.scale))
        return 0
    except config.ConfigError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
