"""The error that a user can mend."""


class UserError(Exception):
    """Something that the user gave cannot be used; the message is all that the command line prints (exit code 2).

    One sentence says what must hold and what came, in the user's names; a second one the cure, if there is one.

    Examples:
        >>> raise UserError("train.csv, line 3: the text is empty. Give every row a text or drop it.")
        Traceback (most recent call last):
        ...
        labeldist.training.errors.UserError: train.csv, line 3: the text is empty. Give every row a text or drop it.
    """


class LostProcessError(UserError):
    """A run on several processes cannot go on without one of them; each of the others says so.

    Examples:
        >>> raise LostProcessError("the run needs all of its 2 processes, and one has ended.")
        Traceback (most recent call last):
        ...
        labeldist.training.errors.LostProcessError: the run needs all of its 2 processes, and one has ended.
    """
