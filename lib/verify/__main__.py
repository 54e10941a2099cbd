"""python -m lib.verify --scale S [--write | --rerun ITEM | --twice]"""

import argparse
import sys
from collections.abc import Sequence

from lib import checksums, config, record, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and carry out one call.

    Args:
        arguments: words of the call; None: this process's own.
    Returns: the exit status: 0; 1 where something does not follow; 2 for what does not exist.
    """
    parser = argparse.ArgumentParser(
        prog="run_all.sh verify", description="Check that a scale's tables, figures and claims follow from its records."
    )
    parser.add_argument("--scale", default="smoke", choices=config.SCALES, help=argparse.SUPPRESS)
    parser.add_argument("--strict", action="store_true", help="fail also where something cannot be traced")
    parser.add_argument("--cores", type=int, default=1, metavar="N", help="with --twice: jobs side by side")
    parser.add_argument("--only", metavar="ITEM", help="with --twice: one item or notebook")
    parser.add_argument("--profile", metavar="NAME", help="with --twice: where the second run's jobs run")
    deed = parser.add_mutually_exclusive_group()
    deed.add_argument("--write", action="store_true", help=f"write {checksums.NAME} anew, of the files as they are")
    deed.add_argument("--rerun", metavar="ITEM", help="execute the notebook of an item, or all, again and compare")
    deed.add_argument("--twice", action="store_true", help="run the scale twice from nothing and compare")
    asked = parser.parse_args(arguments)
    if asked.only and not asked.twice:
        parser.error("--only goes with --twice; one item again: --rerun ITEM")
    if asked.profile and not asked.twice:
        parser.error("--profile goes with --twice")
    folder = config.results_dir(asked.scale)
    try:
        if asked.write:
            print(f"{folder / checksums.NAME}: {checksums.renew(folder)} files")
            return 0
        if asked.rerun:
            found = verify.rerun(asked.scale, None if asked.rerun == "all" else asked.rerun)
        elif asked.twice:
            found = verify.twice(asked.scale, asked.cores, asked.only, asked.profile)
        else:
            found = verify.check(asked.scale)
    except config.ConfigError as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    except (checksums.ChecksumError, record.RecordError, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 1
    whole = not (asked.rerun or asked.twice)
    missing = [name for name in config.items() if whole and not record.exists(name, asked.scale)]
    print(verify.told(found, asked.scale, missing))
    states = {finding.state for finding in found}
    return int(not found or verify.DIFFERS in states or (asked.strict and verify.UNTRACED in states))


if __name__ == "__main__":
    sys.exit(main())
