"""python -m lib.engine run|status|job|box|merge: what run_all.sh and the Snakefile call."""

import argparse
import sys
from pathlib import Path

from lib import config
from lib.engine import jobs, run


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
    state = commands.add_parser("status", help="how far the run is, or what the last one did")
    one = commands.add_parser("job", help="run one command of the graph")
    one.add_argument("--name", required=True)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--output", type=Path)
    one.add_argument("--makes", type=Path, nargs="+", default=[])
    one.add_argument("--gpus", default="all")
    one.add_argument("--unless-kept", nargs="+", default=[], metavar="RUN", help="steps; with all kept, do nothing")
    one.add_argument("--seed", type=int, default=0, help="of those steps")
    one.add_argument("words", nargs="+", help="the command, after --")
    timed = commands.add_parser("box", help="what can be finished in some minutes, into one archive")
    timed.add_argument("--entry", help="of config/queue.yaml, in place of --scale, --only, --seeds and --minutes")
    timed.add_argument("--only", action="extend", nargs="+", default=[], metavar="ITEM", help="the most urgent first")
    timed.add_argument("--seeds", nargs="+", type=int, default=[])
    timed.add_argument("--minutes", type=_above_zero)
    timed.add_argument("--processes", type=int, default=4, choices=range(1, 257), metavar="P")
    timed.add_argument("--out", type=Path, default=Path("box.zip"))
    timed.add_argument("--dry-run", action="store_true")
    taken = commands.add_parser("merge", help="take the archive of a time box into the results")
    taken.add_argument("archive", type=Path)
    taken.add_argument("--dry-run", action="store_true", help="say what would be taken; write nothing")
    taken.add_argument("--replace", action="append", default=[], metavar="NAME", help="networks of other weights")
    for each in (whole, state, one, timed):
        each.add_argument("--scale", default=None if each is timed else "smoke", choices=config.SCALES)
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "run":
            return run.run(asked.scale, asked.cores, asked.only, asked.profile, asked.dry_run, asked.retrain)
        if asked.command == "job":
            kept = [
                sys.executable,
                "-m",
                "lib.evaluations",
                "--scale",
                asked.scale,
                "--seed",
                str(asked.seed),
                "--kept",
            ]
            kept = [*kept, "--run", *asked.unless_kept] if asked.unless_kept else []
            return jobs.job(
                asked.scale, asked.name, asked.words, asked.threads, asked.output, asked.makes, asked.gpus, kept
            )
        if asked.command == "box":
            return _box(asked)
        if asked.command == "merge":
            from lib.engine import merge  # what the jobs of a run have no use for

            return merge.merge(asked.archive, asked.dry_run, asked.replace)
        print(run.status(asked.scale))
        return 0
    except config.ConfigError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _box(asked: argparse.Namespace) -> int:
    """A time box, as its entry of the queue has it and the command line says otherwise."""
    scale, only, seeds, minutes = asked.scale or "smoke", asked.only, asked.seeds, asked.minutes
    if asked.entry is not None:
        known = config.queue()
        if asked.entry not in known:
            raise config.ConfigError(f"config/queue.yaml has no entry {asked.entry!r}: {', '.join(known) or 'none'}")
        if asked.scale or only:
            raise config.ConfigError("--entry says which scale and items: leave out --scale and --only")
        piece = known[asked.entry]
        scale, only, seeds, minutes = piece.scale, piece.only, seeds or piece.seeds, minutes or piece.minutes
    if not only or not minutes:
        raise config.ConfigError("box wants --only ITEM ... and --minutes M, or --entry NAME of config/queue.yaml")
    from lib.engine import box

    return box.run(scale, only, seeds, minutes, asked.processes, asked.out, asked.dry_run)


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: minutes, above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
