"""python -m lib.engine run|status|job|box|merge: what run_all.sh and the Snakefile call."""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from lib import config


class _Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong with a call."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"run_all.sh: {message}; see ./run_all.sh --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Parse and carry out one command; its exit status: 0 done, 1 a job failed, 2 asked for what does not exist."""
    parser = _Parser(prog="python -m lib.engine", description=__doc__)
    parser.add_argument("--called-from", type=Path, default=Path(), help="folder that relative paths start from")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    whole = commands.add_parser("run", help="bring a scale up to date, or with --dry-run say what is left")
    whole.add_argument("scale", nargs="?", default="smoke", choices=config.SCALES)
    whole.add_argument("--cores", type=_from_one)
    whole.add_argument("--only", action="append", default=[], metavar="ITEM")
    whole.add_argument("--data", type=Path, help="folder of the image sets")
    whole.add_argument("--profile", default="local")
    whole.add_argument("--dry-run", "-n", action="store_true")
    whole.add_argument("--retrain", action="store_true")
    state = commands.add_parser("status", help="how far the run is, or what the last one did")
    state.add_argument("scale", nargs="?", default="smoke", choices=config.SCALES)
    job = commands.add_parser("job", help="run one command of the graph")
    job.add_argument("--scale", required=True, choices=config.SCALES)
    job.add_argument("--name", required=True)
    job.add_argument("--threads", type=_from_one, default=1)
    job.add_argument("--output", type=Path)
    job.add_argument("--makes", type=Path, nargs="+", default=[])
    job.add_argument("--gpus", default="all")
    job.add_argument("--unless-kept", nargs="+", default=[], metavar="RUN", help="steps; with all kept, do nothing")
    job.add_argument("--seed", type=int, default=0, help="of those steps")
    job.add_argument("words", nargs="+", help="the command, after --")
    box = commands.add_parser("box", help="what can be finished in some minutes, into one archive")
    box.add_argument("scale", nargs="?", choices=config.SCALES)
    box.add_argument("--entry", help="of config/queue.yaml, in place of scale, --only, --seeds and --minutes")
    box.add_argument("--only", action="extend", nargs="+", default=[], metavar="ITEM", help="the most urgent first")
    box.add_argument("--seeds", nargs="+", type=int, default=[])
    box.add_argument("--minutes", type=_above_zero)
    box.add_argument("--processes", type=_from_one, default=4)
    box.add_argument("--out", type=Path, default=Path("box.zip"))
    box.add_argument("--dry-run", action="store_true")
    merge = commands.add_parser("merge", help="take the archive of a time box into the results")
    merge.add_argument("archive", type=Path)
    merge.add_argument("--dry-run", action="store_true", help="say what would be taken; write nothing")
    merge.add_argument("--replace", action="append", default=[], metavar="NAME", help="networks of other weights")
    asked = vars(parser.parse_args(arguments))
    command, here = asked.pop("command"), asked.pop("called_from")
    for name in {"data", "out", "archive"} & {key for key, value in asked.items() if value is not None}:
        asked[name] = (here / asked[name]).absolute()
    try:
        if data := asked.pop("data", None):
            if not data.is_dir():
                raise config.ConfigError(f"--data: no folder {data}")
            os.environ["DATA_ROOT"] = str(data)
        home = {"run": "run", "status": "run", "job": "jobs", "box": "box", "merge": "archive"}[command]
        module = importlib.import_module(f"lib.engine.{home}")  # a job has no use for the others
        return getattr(module, "run" if command == "box" else command)(**asked)
    except config.ConfigError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1")
    return int(text)


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: minutes, above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
