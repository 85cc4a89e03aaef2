"""The one error that a user can mend."""


class GlapError(Exception):
    """Something that the user can put right.

    The message is one line that says what is wrong, where, and how to mend it. The command line prints
    it without a traceback and exits with status 2.
    """
