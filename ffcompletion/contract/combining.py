"""Filters made of filters: ``any_of``, ``all_of``, ``matching``. What cannot be decided is not delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Final, final, overload

import msgspec
from typing_extensions import TypeIs

from ffcompletion.contract.errors import Validation
from ffcompletion.contract.filter import ScannerFilter

if TYPE_CHECKING:
    from ffcompletion.contract.protocols import CompletionFilter

__all__ = ["AllOf", "AnyOf", "Matching", "all_of", "any_of", "is_plain", "matching", "namespaces_of"]

# Each level asks the next one; whoever reads for everybody must not run out of stack for one stream's filter.
_DEEPEST: Final = 32
# One that is part of several others is asked by each of them: thirty levels of two could ask a thousand million times.
_MOST_WITHIN: Final = 4_096


@final
class AnyOf(msgspec.Struct, frozen=True, dict=True):
    """What ``any_of`` gives: admits what one of its parts admits."""

    parts: tuple[CompletionFilter, ...]
    """At least two, each once."""
    tag_key: str | None
    """The one tag that its parts want to see."""

    def is_noop(self, /) -> bool:
        """Whether one of the parts admits everything. Raises ``TypeError`` where one does not say so in a bool."""
        return any(_admits_everything(part) for part in self.parts)

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        """Whether a part says yes. Raises what a part raised where none does: then it is undecided."""
        exact = self._exact
        if exact and not exact.isdisjoint(
            ((core_namespace, tag_value), (core_namespace, None), (None, tag_value), (None, None))
        ):
            return True
        return _decided(self._others, True, core_namespace, tag_value)

    @cached_property
    def extent(self) -> tuple[int, int]:
        """How many are within each other at the deepest place, and how many are asked altogether."""
        return _extent(self.parts)

    @cached_property
    def _exact(self) -> frozenset[tuple[str | None, str | None]]:
        """The ``ScannerFilter``s among the parts, as what they ask for: of thousands one is found in one step."""
        return frozenset(
            (part.namespace, None if part.instance_tag is None else part.instance_tag[1])
            for part in self.parts
            if _is_ours(part)
        )

    @cached_property
    def _others(self) -> tuple[CompletionFilter, ...]:
        return tuple(part for part in self.parts if not _is_ours(part))

    @cached_property
    def namespaces(self) -> frozenset[str] | None:
        """Those of which it may admit something; None where that cannot be told, or is all of them."""
        known = [names for part in self.parts if (names := namespaces_of(part)) is not None]
        return frozenset[str]().union(*known) if len(known) == len(self.parts) else None


@final
class AllOf(msgspec.Struct, frozen=True, dict=True):
    """What ``all_of`` gives: admits what every one of its parts admits."""

    parts: tuple[CompletionFilter, ...]
    """At least two, each once."""
    tag_key: str | None
    """The one tag that its parts want to see."""

    def is_noop(self, /) -> bool:
        """Whether all of the parts admit everything. Raises ``TypeError`` where one does not say so in a bool."""
        return all(_admits_everything(part) for part in self.parts)

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        """Whether no part says no. Raises what a part raised where none does: then it is undecided."""
        return _decided(self.parts, False, core_namespace, tag_value)

    @cached_property
    def extent(self) -> tuple[int, int]:
        """How many are within each other at the deepest place, and how many are asked altogether."""
        return _extent(self.parts)


@final
class Matching(msgspec.Struct, frozen=True):
    """What ``matching`` gives: admits what a function says yes to."""

    predicate: Callable[[str | None, str | None], bool]
    """Asked with the namespace and the value of the tag."""
    tag_key: str | None
    """The tag that the function wants to see."""
    unknown: bool
    """Whether the function is asked where the namespace, or the tag, is missing."""

    def is_noop(self, /) -> bool:
        """It never is: what a function admits cannot be told from outside."""
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        """What the function says; no where it is not asked. Raises ``TypeError`` for an answer that is no bool."""
        if not self.unknown and (core_namespace is None or (self.tag_key is not None and tag_value is None)):
            return False
        answer = _asked(self.predicate, core_namespace, tag_value)
        if isinstance(answer, bool):
            return answer
        raise TypeError(f"the predicate answered a {type(answer).__name__}, which is no bool")


# A checker refuses what admits nothing, and what would admit everything; of a list only its length tells, at run time.
@overload
def any_of(filter: CompletionFilter, /) -> CompletionFilter: ...
@overload
def any_of(filter: CompletionFilter, another: CompletionFilter, /, *filters: CompletionFilter) -> CompletionFilter: ...
def any_of(*filters: CompletionFilter) -> CompletionFilter:
    """A filter that admits what at least one of these admits.

    Where none says yes and one cannot tell (it raises), nothing is delivered. All that want to see a tag must want the
    same one: a backend reads one. Raises ``Validation`` for others, for no filter at all, and for more than 32 levels
    or 4,096 parts within each other.
    """
    parts = _flat(filters, AnyOf)
    return parts[0] if len(parts) == 1 else AnyOf(parts, _tag_key(parts))


@overload
def all_of(filter: CompletionFilter, /) -> CompletionFilter: ...
@overload
def all_of(filter: CompletionFilter, another: CompletionFilter, /, *filters: CompletionFilter) -> CompletionFilter: ...
def all_of(*filters: CompletionFilter) -> CompletionFilter:
    """A filter that admits what every one of these admits; of ``ScannerFilter``s where it can be, one again.

    Where none says no and one cannot tell (it raises), nothing is delivered. All that want to see a tag must want the
    same one. Raises ``Validation`` for others, for no filter at all, which would be everybody's, and for more than 32
    levels or 4,096 parts within each other.
    """
    parts = _merged(_flat(filters, AllOf))
    return parts[0] if len(parts) == 1 else AllOf(parts, _tag_key(parts))


def matching(
    predicate: Callable[[str | None, str | None], bool], *, tag_key: str | None = None, unknown: bool = False
) -> CompletionFilter:
    """A filter that admits what ``predicate(namespace, tag_value)`` says yes to.

    ``tag_key``: the tag that it wants to see. An execution without a namespace, or without that tag, is not admitted,
    and the predicate is not asked, so that one that negates admits nothing by accident; with ``unknown=True`` it is,
    and gets None. What it raises, and an answer that is no bool, admits nothing. It runs once for each completion.

    Raises ``Validation`` for an empty tag key, and for a predicate that cannot be called.
    """
    if not callable(predicate):
        raise Validation("filter", f"a {type(predicate).__name__} cannot be called")
    # The rules of a tag's key are those of ScannerFilter.
    wanted = ScannerFilter(None, None if tag_key is None else (tag_key, ""))
    return Matching(predicate, wanted.tag_key, unknown)


def is_plain(wanted: CompletionFilter) -> bool:
    """Whether it is a ``ScannerFilter``, or made of those alone: then it is a value, and raises nothing."""
    if _is_ours(wanted):
        return True
    # A subclass may answer other things than its parts do, and so may parts that change.
    kinds = (AnyOf, AllOf)
    return (
        isinstance(wanted, kinds)
        and type(wanted) in kinds
        and type(wanted.parts) is tuple
        and all(map(is_plain, wanted.parts))
    )


def namespaces_of(wanted: CompletionFilter) -> frozenset[str] | None:
    """The namespaces of which it may admit something; None where that cannot be told, or is all of them."""
    if _is_ours(wanted):
        return None if wanted.namespace is None else frozenset({wanted.namespace})
    if isinstance(wanted, AnyOf):
        return wanted.namespaces
    if not isinstance(wanted, AllOf):
        return None
    known = [names for part in wanted.parts if (names := namespaces_of(part)) is not None]
    return known[0].intersection(*known[1:]) if known else None


def _is_ours(part: CompletionFilter) -> TypeIs[ScannerFilter]:
    # Not a subclass, which may admit less than its fields say, whatever `final` means to a checker.
    return type(part) is ScannerFilter


def _admits_everything(part: CompletionFilter) -> bool:
    # The coroutine of an `async def is_noop` is true, too, and everybody's completions would be let in.
    answer = _said(part.is_noop)
    if isinstance(answer, bool):
        return answer
    raise TypeError(f"a part's is_noop() answered a {type(answer).__name__}, which is no bool")


def _said(question: Callable[[], object]) -> object:
    return question()


def _asked(
    question: Callable[[str | None, str | None], object], core_namespace: str | None, tag_value: str | None
) -> object:
    # Somebody else's code may answer other things than it promises.
    return question(core_namespace, tag_value)


def _decided(
    parts: Iterable[CompletionFilter], deciding: bool, core_namespace: str | None, tag_value: str | None
) -> bool:
    """``deciding`` if one part says so, the contrary if all say that; else raises what one of them raised."""
    failure: BaseException | None = None
    for part in parts:
        try:
            answer = _asked(part.matches, core_namespace, tag_value)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001  # another part may decide it; and no plain call cancels or exits
            failure = exc
            continue
        if answer is deciding:
            return deciding
        if not isinstance(answer, bool):
            failure = TypeError(f"a part answered a {type(answer).__name__}, which is no bool")
    if failure is not None:
        raise failure
    return not deciding


def _flat(filters: tuple[CompletionFilter, ...], kind: type[AnyOf | AllOf]) -> tuple[CompletionFilter, ...]:
    """The parts, those of a nested one of the same kind among them; each once."""
    if not filters:
        raise Validation("filter", "no filter is given")
    found: list[CompletionFilter] = []
    # Only what is ours is compared by value.
    values, others = set[ScannerFilter](), set[int]()
    for item in filters:
        if not callable(getattr(type(item), "matches", None)):
            # Untyped callers: a namespace, or a list of filters.
            raise Validation("filter", f"a {type(item).__name__} is none")
        for part in item.parts if isinstance(item, AnyOf | AllOf) and type(item) is kind else (item,):
            if _is_ours(part):
                known = part in values
                values.add(part)
            else:
                known = id(part) in others
                others.add(id(part))
            if not known:
                found.append(part)
    deepest, within = _extent(found)
    if deepest > _DEEPEST:
        raise Validation("filter", f"more than {_DEEPEST} are within each other; put what is alike side by side")
    if within > _MOST_WITHIN:
        raise Validation(
            "filter", f"more than {_MOST_WITHIN:,} are within each other; make fewer out of what they share"
        )
    return tuple(found)


def _extent(parts: Iterable[CompletionFilter]) -> tuple[int, int]:
    inner = [part.extent for part in parts if isinstance(part, AnyOf | AllOf)]
    return 1 + max((deep for deep, _ in inner), default=0), 1 + sum(within for _, within in inner)


def _merged(parts: tuple[CompletionFilter, ...]) -> tuple[CompletionFilter, ...]:
    """The same, with the ``ScannerFilter``s made one where they do not contradict each other."""
    ours = [part for part in parts if _is_ours(part)]
    namespaces = {part.namespace for part in ours if part.namespace is not None}
    tags = {part.instance_tag for part in ours if part.instance_tag is not None}
    if not ours or len(namespaces) > 1 or len(tags) > 1:
        return parts
    one = ScannerFilter(next(iter(namespaces), None), next(iter(tags), None))
    return (one, *(part for part in parts if not _is_ours(part)))


def _tag_key(parts: tuple[CompletionFilter, ...]) -> str | None:
    keys = {key for part in parts if (key := part.tag_key) is not None}
    if len(keys) > 1:
        raise Validation("filter", f"one tag can be looked at, and these want {', '.join(sorted(map(repr, keys)))}")
    return next(iter(keys), None)


if TYPE_CHECKING:
    _any: type[CompletionFilter] = AnyOf
    _all: type[CompletionFilter] = AllOf
    _matching: type[CompletionFilter] = Matching
