"""The error tree, below everything else, so that any layer can raise and any layer can catch by meaning.

Foreign errors (of the operating system, a database, an HTTP client) are translated at the adapter that met them, with
the cause kept (`raise ... from`). What a caller may do is told by the class, never by the text: `Unavailable` and its
children may be tried again, the others may not. The text is one sentence for a person: what is wrong, where, and what
would be right. It never holds a secret.
"""


class PenstockError(Exception):
    """Base of every error that Penstock raises on purpose."""

    #: Short stable word for programs: API bodies, metrics labels, records.
    code = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(PenstockError):
    """What the user gave cannot be accepted. `where` names the field, file or argument, if there is one."""

    code = "invalid"

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


class NotFound(PenstockError):
    """The named thing does not exist (or is not visible to the caller)."""

    code = "not_found"


class AlreadyExists(PenstockError):
    """The name is taken by something else."""

    code = "already_exists"


class Forbidden(PenstockError):
    """The caller is known and may not do this."""

    code = "forbidden"


class Unsupported(PenstockError):
    """A typed refusal: this adapter says by its capability flags that it cannot do that."""

    code = "unsupported"


class Superseded(PenstockError):
    """The object at this name is no longer the version that was asked for."""

    code = "superseded"


class Conflict(PenstockError):
    """A concurrent change won; read again and decide anew."""

    code = "conflict"


class Fenced(PenstockError):
    """Another writer has taken over, or this one never did: what it would write must not be written, by no retry."""

    code = "fenced"


class Unavailable(PenstockError):
    """Infrastructure did not answer or refused for now. The same call may succeed later."""

    code = "unavailable"


class OutOfSpace(Unavailable):
    """A disk or quota is full. Nothing was written."""

    code = "out_of_space"


class Closed(PenstockError):
    """The adapter was closed; the caller outlived it."""

    code = "closed"


class Corrupt(PenstockError):
    """Stored data cannot be read back. Never answered with an empty result."""

    code = "corrupt"
