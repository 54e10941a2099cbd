"""What goes wrong in dynamic pruning and pruning from scratch."""


class DynamicError(ValueError):
    """A network, budget or input that these methods cannot work with; the message says what to do."""
