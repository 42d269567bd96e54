"""The error that a user can mend."""

from labeldist.messages import cut, escape_controls

MAX_SENTENCE = 800
"""Characters of one message: a path or a name of another length is cut in its middle."""


class UserError(Exception):
    """Something that the user gave cannot be used; the message is all that the command line prints (exit code 2).

    One sentence says what must hold and what came, in the user's names; a second one the cure, if there is one. Control
    characters, which names and texts of files may hold, are escape_controls, and a message has at most `MAX_SENTENCE`
    characters.

    Examples:
        >>> raise UserError("train.csv, line 3: the text is empty. Give every row a text or drop it.")
        Traceback (most recent call last):
        ...
        labeldist.training.errors.UserError: train.csv, line 3: the text is empty. Give every row a text or drop it.
    """

    def __init__(self, message: str):
        super().__init__(cut(escape_controls(message), MAX_SENTENCE))


class LostProcessError(UserError):
    """A run on several processes cannot go on without one of them; each of the others says so.

    Examples:
        >>> raise LostProcessError("the run needs all of its 2 processes, and one has ended.")
        Traceback (most recent call last):
        ...
        labeldist.training.errors.LostProcessError: the run needs all of its 2 processes, and one has ended.
    """
