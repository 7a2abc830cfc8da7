"""The two kinds of failure that are not defects: a user's mistake and a temporary fault.

Tasks turn them into exit codes (2 and 75); anything else is a defect (exit code 1).
"""


class UserError(ValueError):
    """The input or a parameter is wrong; the message names it and says what to do next."""


class TemporaryError(RuntimeError):
    """Trying again later may help (a full disk, a lost connection, a busy port)."""
