"""python -m lib.crate --scale S [--check]"""

import argparse
import sys
from collections.abc import Sequence

from lib import checksums, config, crate


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and carry out one call.

    Args:
        arguments: words of the call; None: this process's own.
    Returns: the exit status: 0, or 1 with one line on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="run_all.sh crate", description="Describe a scale's results as an RO-Crate, and read it back."
    )
    parser.add_argument("--scale", default="smoke", choices=config.SCALES, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help="only read back the crate that is there")
    asked = parser.parse_args(arguments)
    folder = config.results_dir(asked.scale)
    try:
        path = folder / crate.NAME if asked.check else crate.write(asked.scale)
        print(f"{path}: {crate.check(folder)} files, all there as described")
    except (crate.CrateError, checksums.ChecksumError, config.ConfigError, OSError) as error:
        print(f"crate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
