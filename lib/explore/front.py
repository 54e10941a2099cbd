"""The explorer where somebody can use it; a word on what to do where nobody can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib import progress
from lib.explore.session import Choice, Session

if TYPE_CHECKING:
    from lib.explore.panel import Panel

STATIC = (
    "*This copy was made without a front end, so the explorer is not shown; the panels below are those of the "
    "parameters above. Open the notebook in JupyterLab (`./run_all.sh lab`) and run it for buttons and sliders.*"
)


def show(session: Session, choice: Choice, live: bool | None = None) -> Panel | None:
    """Display the explorer, set to a choice.

    Args:
        session: networks, images and what is computed.
        choice: where it begins.
        live: whether somebody can press buttons; None: as the kernel finds out. Where nobody can, a note is displayed.
    Returns: the panel; None where nobody can use it.
    """
    from IPython.display import Markdown, display

    if not (progress.watched() if live is None else live):
        display(Markdown(STATIC))
        return None
    from lib.explore.panel import Panel

    panel = Panel(session, choice)
    display(panel.widget)
    panel.refresh()
    return panel
