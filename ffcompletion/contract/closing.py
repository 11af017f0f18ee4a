"""What is closed at the end of its ``with`` block: the two methods, once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from typing_extensions import override

if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

__all__ = ["AsyncClosing", "Closing"]


def _not_copied(thing: object) -> TypeError:
    # A copy would hold what the original holds, and close it as it goes.
    return TypeError(f"a {type(thing).__name__} cannot be copied or pickled")


class AsyncClosing(ABC):
    """Closed at the end of its ``async with`` block, however that ends."""

    __slots__ = ()

    @override
    def __reduce__(self) -> NoReturn:
        raise _not_copied(self)

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything. Idempotent."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Closing(ABC):
    """Closed at the end of its ``with`` block, however that ends."""

    __slots__ = ()

    @override
    def __reduce__(self) -> NoReturn:
        raise _not_copied(self)

    @abstractmethod
    def close(self) -> None:
        """Release everything. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
