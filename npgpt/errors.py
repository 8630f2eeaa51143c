"""The error for what a user can put right."""


class UserError(ValueError):
    """Something given is wrong: the message says what it was, what was expected, what to do."""
