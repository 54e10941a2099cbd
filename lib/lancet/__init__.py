"""AI-Lancet: the weights that cause an error located and repaired; backdoors to repair, and what it is compared with.

Submodules load on first use.
"""

from typing import TYPE_CHECKING

from lib import lazy

if TYPE_CHECKING:
    from lib.lancet.backdoors.triggers import Trigger
    from lib.lancet.errors import LancetError
    from lib.lancet.locating import Votes, choose_layer, locate
    from lib.lancet.measures import measure
    from lib.lancet.repair.fine_tune import fine_tune
    from lib.lancet.repair.flip import FlipReport, flip, flip_by_trial
    from lib.lancet.repair.unlearning import fine_prune, unlearn
    from lib.lancet.repair_saved import repair_own
    from lib.lancet.reversal import reverse

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "backdoors.triggers": ("Trigger",),
        "errors": ("LancetError",),
        "locating": ("Votes", "choose_layer", "locate"),
        "measures": ("measure",),
        "repair.fine_tune": ("fine_tune",),
        "repair.flip": ("FlipReport", "flip", "flip_by_trial"),
        "repair.unlearning": ("fine_prune", "unlearn"),
        "repair_saved": ("repair_own",),
        "reversal": ("reverse",),
    },
)
