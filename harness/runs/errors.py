"""What can be wrong with a command, and what is left out of a grid."""


class InputError(ValueError):
    """The user asked for something that does not exist or cannot be; shown as one line."""


class Stopped(Exception):
    """The whole command cannot go on, though nothing is wrong with it; shown as one line."""


class Skip(Exception):
    """A cell of a grid that makes no sense; it is listed with this reason."""
