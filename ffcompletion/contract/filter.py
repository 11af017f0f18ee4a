"""``ScannerFilter``: whose completions a stream is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast, final

import msgspec

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.ids import Namespace
from ffcompletion.contract.text import check_text

if TYPE_CHECKING:
    from ffcompletion.contract.protocols import CompletionFilter

__all__ = ["ScannerFilter"]


@final
class ScannerFilter(msgspec.Struct, frozen=True):
    """A tenant's namespace and/or one exact tag. Immutable; both dimensions must match; *fails closed*.

    ``ScannerFilter(namespace="tenant-a", instance_tag=("cairn.instance_id", "i-1"))``. With neither it is a no-op
    and admits everything. Comparison is exact: no patterns, no case folding.

    Raises ``Validation`` at construction for a field of the wrong type, an empty tag key, and text that no server can
    hold (a NUL, half a surrogate pair). Subclasses of ``str`` are taken as the plain text that they are.
    """

    namespace: Namespace | str | None = None
    """Admit only executions whose core record carries exactly this namespace. ``""`` is a namespace like any other."""
    instance_tag: tuple[str, str] | None = None
    """Admit only executions whose tag with this key has exactly this value."""

    NOOP: ClassVar[ScannerFilter]
    """Admits everything; a subscription with it is exactly an unfiltered one."""

    def __post_init__(self) -> None:
        # Callers may be untyped: look at the values, not at what the annotations promise.
        namespace, tag = cast("object", self.namespace), cast("object", self.instance_tag)
        if namespace is not None:
            # Streams of equal filters share their answers, so equality has to be that of plain text.
            msgspec.structs.force_setattr(self, "namespace", check_text("filter", "namespace", namespace))
        if tag is None:
            return
        parts = tuple(cast("tuple[object, ...]", tag)) if isinstance(tag, tuple) else ()
        if len(parts) != 2:
            raise Validation("filter", "instance_tag must be a tuple (key, value) of two strings")
        key, value = check_text("filter", "the tag's key", parts[0]), check_text("filter", "the tag's value", parts[1])
        if not key:
            raise Validation("filter", "the tag's key must not be empty")
        msgspec.structs.force_setattr(self, "instance_tag", (key, value))

    def with_namespace(self, namespace: str, /) -> ScannerFilter:
        """The same filter, for this namespace."""
        return ScannerFilter(namespace, self.instance_tag)

    def with_instance_tag(self, key: str, value: str, /) -> ScannerFilter:
        """The same filter, for this tag."""
        return ScannerFilter(self.namespace, (key, value))

    @property
    def tag_key(self) -> str | None:
        """The tag whose value ``matches`` wants to see; None if tags do not matter."""
        return None if self.instance_tag is None else self.instance_tag[0]

    def is_noop(self, /) -> bool:
        """Whether everything is admitted."""
        return self.namespace is None and self.instance_tag is None

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        """Whether an execution is admitted.

        ``core_namespace``: the namespace in its core record, None if there is none. ``tag_value``: the value of its
        tag ``tag_key``, None if it has no such tag. Unknown never matches.
        """
        if self.namespace is not None and core_namespace != self.namespace:
            return False
        return self.instance_tag is None or tag_value == self.instance_tag[1]


ScannerFilter.NOOP = ScannerFilter()

if TYPE_CHECKING:
    _: type[CompletionFilter] = ScannerFilter
