"""The report: a scale's front page, a page a paper, its notebooks as HTML, and parts of the README.

`python -m lib.report --scale S` writes results/<scale>/*.html and notebooks/*.html and prints the front page's path;
 `python -m lib.report --readme README.md docs/methods/*.md` rewrites what is generated, between its two markers.
"""

from lib.report.entries import duration
from lib.report.gallery import ReportError, findings_markdown, gallery_markdown, write_readme
from lib.report.page import build, main
