"""What to say where an extra is missing, or is there and cannot be loaded."""

from __future__ import annotations

__all__ = ["missing"]


def missing(exc: ImportError, extra: str) -> str:
    """The reason, and the line that installs it."""
    # Without a name it is the package's own complaint: a library of the system's that it needs, say.
    why = f"{exc.name} is not installed" if exc.name else " ".join(str(exc).split())
    return f"{why}; pip install 'ffcompletion[{extra}]'"
