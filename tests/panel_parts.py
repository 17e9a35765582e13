"""What the tests of panels share."""


def all_in(box):
    """A widget and all that it holds."""
    return {box}.union(*(all_in(w) for w in getattr(box, "children", ())))
