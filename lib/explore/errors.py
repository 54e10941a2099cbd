"""What the explorer says where it cannot do what it was asked."""


class ExploreError(ValueError):
    """A network, image, attack or strength that does not exist here; the message says which do."""
