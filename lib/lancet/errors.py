"""The error of this study's methods."""


class LancetError(ValueError):
    """A repair that cannot be done; the message names the thing, what was expected and what to do."""
