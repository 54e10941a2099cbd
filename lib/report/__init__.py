"""The report: a scale's front page, a page a paper, its notebooks as HTML, and the README's gallery.

`python -m lib.report --scale S` writes results/<scale>/*.html and notebooks/*.html and prints the front page's path;
 `python -m lib.report --readme README.md` rewrites the gallery between that file's two markers.
"""

from lib.report.entries import duration
from lib.report.gallery import END, START, ReportError, gallery_markdown, write_gallery
from lib.report.page import benchmarks, build, main

__all__ = [
    "END",
    "START",
    "ReportError",
    "benchmarks",
    "build",
    "duration",
    "gallery_markdown",
    "main",
    "write_gallery",
]
