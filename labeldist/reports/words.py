"""Numbers as a report writes them."""

__all__ = ["count", "percent"]


def percent(fraction: float | None) -> str:
    """A fraction as percent with one decimal, without the sign; a dash where there is none.

    Examples:
        >>> percent(0.8824), percent(None)
        ('88.2', '–')
    """
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    Examples:
        >>> count(1, "seed"), count(1200, "row"), count(2, "class", "classes")
        ('1 seed', '1,200 rows', '2 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
