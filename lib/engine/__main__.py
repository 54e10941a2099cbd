"""python -m lib.engine run|job|summary|box|merge: what run_all.sh and the Snakefile call."""

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
    _add_box(commands.add_parser("box", help="what can be finished in some minutes, into one archive"))
    taken = commands.add_parser("merge", help="take the archive of a time box into the results")
    taken.add_argument("archive", type=Path)
    taken.add_argument("--dry-run", action="store_true", help="say what would be taken; write nothing")
    taken.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="NAME",
        help="networks that those of other weights may replace",
    )
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
        if asked.command == "box":
            return _box(asked)
        if asked.command == "merge":
            return _merge(asked)
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


def _add_box(box: argparse.ArgumentParser) -> None:
    box.add_argument("--scale", choices=config.SCALES)
    box.add_argument("--entry", help="of config/queue.yaml, in place of --scale, --only, --seeds and --minutes")
    box.add_argument("--only", action="extend", nargs="+", default=[], metavar="ITEM", help="the most urgent first")
    box.add_argument("--seeds", nargs="+", type=int, default=[])
    box.add_argument("--minutes", type=_above_zero)
    box.add_argument("--processes", type=int, default=4)
    box.add_argument("--threads", type=int, help="of each process (default: the scale's)")
    box.add_argument("--out", type=Path, default=Path("box.zip"))
    box.add_argument("--weights-mb", type=float, default=15.0, help="pack weights until the archive has this size")
    box.add_argument("--everything", action="store_true", help="pack also what was there before")
    box.add_argument("--commit", default="", help="of the code, where git cannot tell: git describe --always --dirty")
    box.add_argument("--dry-run", action="store_true")


def _box(asked: argparse.Namespace) -> int:
    """A time box, as its entry of the queue has it and the command line says otherwise."""
    if asked.entry is not None:
        known = config.queue()
        if asked.entry not in known:
            raise config.ConfigError(f"config/queue.yaml has no entry {asked.entry!r}: {', '.join(known) or 'none'}")
        if asked.scale or asked.only:
            raise config.ConfigError("--entry says which scale and items: leave out --scale and --only")
        piece = known[asked.entry]
        asked.scale, asked.only, asked.seeds = piece.scale, list(piece.only), asked.seeds or list(piece.seeds)
        asked.minutes = asked.minutes or piece.minutes
    if not asked.only or not asked.minutes:
        raise config.ConfigError("box wants --only ITEM ... and --minutes M, or --entry NAME of config/queue.yaml")
    if asked.processes < 1 or (asked.threads is not None and asked.threads < 1):
        raise config.ConfigError("--processes and --threads are whole numbers from 1")
    from lib.engine import timebox  # what the jobs of a run have no use for

    return timebox.run(
        asked.scale or "smoke",
        asked.only,
        asked.seeds,
        asked.minutes,
        asked.processes,
        asked.out,
        asked.threads,
        asked.weights_mb,
        asked.everything,
        asked.commit,
        asked.dry_run,
    )


def _merge(asked: argparse.Namespace) -> int:
    from lib.engine import merge

    return merge.merge(asked.archive, asked.dry_run, asked.replace)


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: minutes, above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
