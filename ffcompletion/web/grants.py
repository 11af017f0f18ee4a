"""What a client may see, and what it asked for: a stream is for both, and fails closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self, cast, final

import msgspec
from starlette.requests import Request

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.protocols import CompletionFilter
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.text import check_text
from ffcompletion.foreign.calling import name_of

__all__ = ["Authorize", "Grant"]


@final
class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may see. Immutable; what is not granted does not exist for it.

    Raises ``Validation`` for namespaces that are no set, list or tuple of text, and a tag that is no pair of it.
    """

    namespaces: frozenset[str] | None = None
    """These tenants alone; None for all of them, and for executions without one."""
    instance_tag: tuple[str, str] | None = None
    """Only executions with this tag, whatever their tenant."""

    def __post_init__(self) -> None:
        # Callers may be untyped: in one string every tenant would be found whose name is a part of it.
        namespaces = cast("object", self.namespaces)
        if namespaces is not None:
            if not isinstance(namespaces, frozenset | set | list | tuple):
                raise Validation("grant", f"namespaces must be a set of names, not {name_of(namespaces)}")
            names = cast("frozenset[object]", namespaces)
            plain = frozenset(check_text("grant", "a namespace", name) for name in names)
            msgspec.structs.force_setattr(self, "namespaces", plain)
        # The rules of a tag are those of ScannerFilter.
        msgspec.structs.force_setattr(self, "instance_tag", ScannerFilter(None, self.instance_tag).instance_tag)

    @classmethod
    def everything(cls) -> Self:
        """All that the server has: for operators."""
        return cls()

    @classmethod
    def of(cls, *namespaces: str) -> Self:
        """These tenants' executions. None at all is a grant of nothing."""
        return cls(namespaces=frozenset(namespaces))

    @property
    def is_everything(self) -> bool:
        """Whether nothing is withheld."""
        return self.namespaces is None and self.instance_tag is None

    def narrowed(self, namespace: str | None, tag: tuple[str, str] | None) -> Grant | None:
        """The grant of what was asked for, or None where that is more than this one."""
        if namespace is not None and self.namespaces is not None and namespace not in self.namespaces:
            return None
        if tag is not None and self.instance_tag is not None and tag != self.instance_tag:
            return None
        return Grant(
            namespaces=self.namespaces if namespace is None else frozenset({namespace}),
            instance_tag=tag or self.instance_tag,
        )

    def covers(self, other: Grant) -> bool:
        """Whether everything that the other grants is granted here too."""
        if self.namespaces is not None and (other.namespaces is None or not other.namespaces <= self.namespaces):
            return False
        return self.instance_tag is None or other.instance_tag == self.instance_tag

    def admits(self, snapshot: ExecutionSnapshot) -> bool:
        """Whether this execution is among what is granted. Unknown never is."""
        if self.namespaces is not None and snapshot.namespace not in self.namespaces:
            return False
        tag = self.instance_tag
        return tag is None or snapshot.tags.get(tag[0]) == tag[1]

    def as_filter(self) -> CompletionFilter:
        """The filter that a stream for this grant is opened with."""
        if self.namespaces is None:
            return ScannerFilter(None, self.instance_tag)
        if len(self.namespaces) == 1:
            return ScannerFilter(next(iter(self.namespaces)), self.instance_tag)
        return _OneOf(self.namespaces, self.instance_tag)


@final
class _OneOf:
    """Admits several tenants, with or without a tag."""

    def __init__(self, namespaces: frozenset[str], tag: tuple[str, str] | None) -> None:
        self._namespaces = namespaces
        self._tag = tag

    @property
    def tag_key(self) -> str | None:
        return None if self._tag is None else self._tag[0]

    def is_noop(self, /) -> bool:
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        if core_namespace not in self._namespaces:
            return False
        return self._tag is None or tag_value == self._tag[1]


Authorize = Callable[[Request], Awaitable[Grant | None]]
"""Asked before anything is answered, and again while a stream lasts: what this client may see, or None for nothing.

May raise Starlette's ``HTTPException`` to answer by itself (401, a redirect). Whatever else it raises or returns is a
refusal, and so is an answer that does not come.
"""

if TYPE_CHECKING:
    _: type[CompletionFilter] = _OneOf
