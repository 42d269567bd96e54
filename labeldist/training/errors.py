"""Errors that a user can fix."""

from labeldist.messages import cut, escape_controls

MAX_SENTENCE = 800
"""Characters of one message: a longer one is cut in its middle."""


class UserError(Exception):
    """An input cannot be used. The command line prints only the message and exits with code 2.

    The first sentence says what was expected and what was given. A second sentence says how to fix it, if there is a
    fix. Control characters are escaped, because names and texts of files may contain them. A message has at most
    `MAX_SENTENCE` characters.

    Examples:
        >>> raise UserError("train.csv, line 3: the text is empty. Give every row a text or drop it.")
        Traceback (most recent call last):
        ...
        labeldist.training.errors.UserError: train.csv, line 3: the text is empty. Give every row a text or drop it.
    """

    def __init__(self, message: str):
        super().__init__(cut(escape_controls(message), MAX_SENTENCE))


class LostProcessError(UserError):
    """A run on several processes has lost one of them and cannot continue. Each remaining process raises this error.

    Examples:
        >>> raise LostProcessError("the run needs all of its 2 processes, and one has ended.")
        Traceback (most recent call last):
        ...
        labeldist.training.errors.LostProcessError: the run needs all of its 2 processes, and one has ended.
    """
