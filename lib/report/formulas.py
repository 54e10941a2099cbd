"""LaTeX formulas as pictures with their source as text: no script, nothing fetched, readable on paper and aloud."""

import base64
import html
import io
import re
from functools import lru_cache
from typing import Any

# Commands of LaTeX that Matplotlib knows by another name.
_NAMES = {r"\lVert": r"\Vert", r"\rVert": r"\Vert", r"\lvert": r"\vert", r"\rvert": r"\vert", r"\tfrac": r"\frac"}
_SIZE = 13.5  # points: the letters as tall as those around them, 16 px


def picture(latex: str, display: bool = False) -> str:
    """A formula as an <img> of an SVG inside the page; as its LaTeX where it cannot be drawn.

    Args:
        latex: the formula without its dollar signs.
        display: on a line of its own.
    Returns: HTML, escaped.
    """
    shown = html.escape(" ".join(latex.split()))
    kind = "math display" if display else "math"
    try:
        svg, depth = _draw(latex)
    except ValueError:
        return f'<code class="{kind}">{shown}</code>'
    data = base64.b64encode(svg).decode()
    # One class a pixel below the line, as a page of this package allows no style within its text.
    return f'<img class="{kind} down{min(depth, 40)}" src="data:image/svg+xml;base64,{data}" alt="{shown}">'


@lru_cache(maxsize=512)
def _draw(latex: str) -> tuple[bytes, int]:
    """An SVG and its depth below the line in pixels. Raises: ValueError where Matplotlib cannot read the formula."""
    import matplotlib as mpl
    from matplotlib.mathtext import math_to_image

    text = re.sub(r"\\[A-Za-z]+", lambda found: _NAMES.get(found[0], found[0]), " ".join(latex.split()))
    if not text or "$" in text:
        raise ValueError("not one formula")
    buffer = io.BytesIO()
    fixed: Any = {"svg.hashsalt": "fixed", "svg.fonttype": "path", "mathtext.fontset": "stix", "font.size": _SIZE}
    with mpl.rc_context(fixed):
        depth = math_to_image(f"${text}$", buffer, dpi=72, format="svg")
    svg = re.sub(rb"<metadata>.*?</metadata>", b"", buffer.getvalue(), flags=re.DOTALL)  # holds the date
    return svg, round(float(depth) * 4 / 3)
