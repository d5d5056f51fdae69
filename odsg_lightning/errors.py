"""What this package raises about its input. Nothing is imported here.

The command line decides by these classes (:mod:`odsg_lightning.cli`): whatever is none of them is a fault of the
program. Each is a built-in error, too, so that ``except ValueError`` means what it says.
"""


class OdsgError(Exception):
    """Something about the input or the machine that the user can mend; the message says what."""


class UserInputError(OdsgError, ValueError):
    """An argument, an option or a setting that cannot be used: exit code 2."""


class NonFiniteLossError(UserInputError, FloatingPointError):
    """A training diverged by its settings or its data: exit code 2. Detectron2's own trainer raises the second."""


class MissingDependencyError(OdsgError, ImportError):
    """A package that this part needs is not installed: exit code 2."""


class BrokenInputError(OdsgError, ValueError):
    """A file that cannot be used: exit code 3."""


class MissingFileError(BrokenInputError, FileNotFoundError):
    """A file that is not there: exit code 3."""


class DiskError(OdsgError, OSError):
    """A file that cannot be read or written although its name is right: exit code 74.

    The disk is full or fails, or nothing may be read or written there.
    """


class LostProcessError(OdsgError, ChildProcessError):
    """One of several processes ended by itself, killed or without memory: exit code 74."""


class ToldElsewhereError(OdsgError):
    """Another process says what went wrong, the cause of this; so does this one's exit code."""
