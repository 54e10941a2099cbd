"""What is raised where a network cannot be read."""


class GraphError(ValueError):
    """A network that cannot be read; the message names the step, what it does and what to do.

    A method that reads networks may have its own kind raised in place of this one.
    """
