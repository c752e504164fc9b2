"""Errors that end the start of the program, told to whoever started it in one line."""


class StartError(Exception):
    """NMI cannot start, or cannot go on, until somebody changes something outside of it.

    Its text is one line that says what is wrong and what to do; `nmi.cli` prints it and exits 1, never a traceback.
    Raise it `from` the cause.
    """
