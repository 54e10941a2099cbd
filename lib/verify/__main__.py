"""python -m lib.verify --scale S [--write | --rerun ITEM | --against FOLDER]"""

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
    deed = parser.add_mutually_exclusive_group()
    deed.add_argument("--write", action="store_true", help=f"write {checksums.NAME} anew, of the files as they are")
    deed.add_argument("--rerun", metavar="ITEM", help="execute the notebook of an item, or all, again and compare")
    deed.add_argument("--against", metavar="FOLDER", help="compare the records with those of another results folder")
    asked = parser.parse_args(arguments)
    folder, missing = config.results_dir(asked.scale), []
    try:
        if asked.write:
            print(f"{folder / checksums.NAME}: {checksums.renew(folder)} files")
            return 0
        if asked.rerun:
            found = verify.rerun(asked.scale, None if asked.rerun == "all" else asked.rerun)
        elif asked.against:
            found = verify.against(asked.scale, asked.against)
        else:
            found = verify.check(asked.scale)
            missing = [name for name in config.items() if not record.exists(name, asked.scale)]
    except config.ConfigError as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    except (checksums.ChecksumError, record.RecordError, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 1
    print(verify.summary(found, asked.scale, missing))
    return int(not found or verify.DIFFERS in {finding.state for finding in found})


if __name__ == "__main__":
    sys.exit(main())
