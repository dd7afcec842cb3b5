"""Names of columns of our own, beside those of the user."""

from collections.abc import Iterable


def free_name(name: str, taken: Iterable[str | None]) -> str:
    """The name, with underscores after it while the user has it already.

    What is the user's keeps its name, so that a file that we write can be read back by it.

    Args:
        name: of a column, or of a group of rows.
        taken: the user's own names; None for none.

    Returns:
        A name that is not among them.

    Example:
        >>> from ssmlin.data import free_name
        >>> free_name("mean", ["day"]), free_name("mean", ["mean"])
        ('mean', 'mean_')
    """
    used = {one.strip() for one in taken if one is not None}
    while name in used:
        name += "_"
    return name
