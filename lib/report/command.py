"""The report's command line."""

import argparse
import sys
from collections.abc import Sequence

from lib import checksums, claims, config, record
from lib.report.gallery import ReportError, write_gallery
from lib.report.page import build


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints the path of what was written.

    Args:
        arguments: words of the call; None: this process's own.
    Returns: the exit status, 1 with one line on standard error where something cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lib.report",
        description="Build results/<scale>/index.html from the records, or the gallery of a Markdown file.",
    )
    parser.add_argument(
        "--scale", choices=config.SCALES, help="default: smoke; with --readme, the largest each item has"
    )
    parser.add_argument("--readme", metavar="FILE", help="rewrite the gallery in this Markdown file instead")
    chosen = parser.parse_args(arguments)
    known = (ReportError, checksums.ChecksumError, claims.ClaimError, config.ConfigError, record.RecordError, OSError)
    try:
        if chosen.readme:
            print(write_gallery(chosen.readme, chosen.scale))
            return 0
        scale = chosen.scale or "smoke"
        print(build(scale))
        missing = [name for name in config.items() if not record.exists(name, scale)]
        if missing:
            print(f"report: not run at {scale}, and said so on the page: {', '.join(missing)}", file=sys.stderr)
    except known as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0
