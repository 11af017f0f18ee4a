"""Text that says that it is equal to all other text."""

from __future__ import annotations

from typing_extensions import override

__all__ = ["EqualText"]


class EqualText(str):
    """A tenant's name, say, that would be every tenant's."""

    __slots__ = ()

    @override
    def __eq__(self, other: object) -> bool:
        return True

    @override
    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__
