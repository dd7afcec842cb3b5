"""Names of columns that ssmlin adds to the columns of a user."""

from collections.abc import Iterable


def free_name(name: str, taken: Iterable[str | None]) -> str:
    """Append underscores to a name until the user has no column of this name.

    The user's columns keep their names, so that a file that ssmlin writes can be read by them.

    Args:
        name: the name of a column, or of a group of rows.
        taken: the user's own names; None stands for no name.

    Returns:
        A name that is not taken.

    Examples:
        >>> from ssmlin.data import free_name
        >>> free_name("mean", ["day"]), free_name("mean", ["mean"])
        ('mean', 'mean_')
    """
    used = {one.strip() for one in taken if one is not None}
    while name in used:
        name += "_"
    return name
