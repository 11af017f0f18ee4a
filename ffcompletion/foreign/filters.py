"""A caller's filter, made safe when a stream is opened: asked in one way, compared in one way, and never trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from typing_extensions import override

from ffcompletion.contract.combining import AllOf, AnyOf, is_plain
from ffcompletion.contract.errors import Validation
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.protocols import CompletionFilter
from ffcompletion.contract.text import check_text
from ffcompletion.foreign.calling import FAILED, Culprit, contained, discard, name_of
from ffcompletion.foreign.logs import logger

__all__ = ["ForeignFilter", "Wanted", "admits", "asked_at_once", "checked_filter", "is_noop"]

_log: Final = logger("ffcompletion.filter")

# A millisecond each holds up the loop for less than anybody notices.
_AT_ONCE: Final = 64


@final
class ForeignFilter:
    """A filter that holds somebody else's code: its tag is read once, and what it raises or answers stays here.

    Two are equal if they are of the very same object, whatever that says of itself, and it finds the same values in the
    context: what it answers may hang on who opened the stream.
    """

    __slots__ = ("_culprit", "_original", "tag_key")

    def __init__(self, original: CompletionFilter) -> None:
        """Raises ``Validation`` for a filter whose ``tag_key`` raises, or is no text that a server can hold."""
        self._original = original
        self._culprit = Culprit(f"the filter {name_of(original)}", _log)
        key: object = contained(self._culprit, _tag_key, original)
        if key is FAILED:
            raise Validation("filter", f"{name_of(original)}.tag_key raises")
        self.tag_key: str | None = None if key is None else check_text("filter", "the tag's key", key)
        """The tag that it wants to see, as it was when the stream was opened."""
        if self.tag_key == "":
            raise Validation("filter", "the tag's key must not be empty")

    @property
    def failures(self) -> int:
        """How often it raised, or answered what is no bool."""
        return self._culprit.failures

    def is_noop(self, /) -> bool:
        """It is none, or it would not be here."""
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        """Whether it said yes, and nothing else."""
        return self.admits(core_namespace, tag_value) is True

    def admits(self, core_namespace: str | None, tag_value: str | None, /) -> bool | None:
        """What it says; None, which withholds, if it raised or answered no bool."""
        verdict: object = contained(self._culprit, _matches, self._original, core_namespace, tag_value)
        if verdict is True or verdict is False:
            return verdict
        if verdict is not FAILED:
            discard(verdict)
            self._culprit.failed(f"answered {name_of(verdict)}, which is no bool; the completion is withheld")
        return None

    @override
    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ForeignFilter)
            and other._original is self._original
            and other.tag_key == self.tag_key
            and other._culprit.apart.finds_what(self._culprit.apart)
        )

    @override
    def __hash__(self) -> int:
        return hash((id(self._original), self.tag_key))

    @override
    def __repr__(self) -> str:
        return f"<ForeignFilter {name_of(self._original)}>"


Wanted = ScannerFilter | AnyOf | AllOf | ForeignFilter
"""A filter that can be asked, compared and hashed without running anybody's code uncontained."""


def is_noop(original: CompletionFilter) -> bool:
    """Whether it admits everything. Raises ``Validation`` where it does not say so in one word."""
    if type(original) is ScannerFilter:
        return original.is_noop()
    culprit = Culprit(f"the filter {name_of(original)}", _log)
    answer: object = contained(culprit, _is_noop, original)
    if answer is True or answer is False:
        return answer
    discard(answer)
    how = "raises" if answer is FAILED else f"answers {name_of(answer)}, which is no bool"
    raise Validation("filter", f"{name_of(original)}.is_noop() {how}")


def checked_filter(original: CompletionFilter | None) -> Wanted | None:
    """The filter that a stream is opened with, to be asked safely; None for none and for a no-op.

    Raises ``Validation`` for one whose ``is_noop`` or ``tag_key`` cannot be read.
    """
    if original is None or is_noop(original):
        return None
    if isinstance(original, ScannerFilter | AnyOf | AllOf) and is_plain(original):
        return original
    return ForeignFilter(original)


def admits(wanted: Wanted, namespace: str | None, tag_value: str | None) -> bool | None:
    """Whether a filter admits an execution; None if it cannot tell, which withholds."""
    if isinstance(wanted, ForeignFilter):
        return wanted.admits(namespace, tag_value)
    return wanted.matches(namespace, tag_value)


def asked_at_once(wanted: Wanted | None, most: int) -> int:
    """Of how many stored completions a filter is asked before others have a turn: fewer where it is somebody's code."""
    return min(_AT_ONCE, most) if isinstance(wanted, ForeignFilter) else most


# Functions of their own, because looking the attribute up may raise as well.


def _tag_key(original: CompletionFilter) -> object:
    return original.tag_key


def _is_noop(original: CompletionFilter) -> object:
    return original.is_noop()


def _matches(original: CompletionFilter, core_namespace: str | None, tag_value: str | None) -> object:
    return original.matches(core_namespace, tag_value)


if TYPE_CHECKING:
    _: type[CompletionFilter] = ForeignFilter
