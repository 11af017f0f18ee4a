"""Filters made of filters: their laws, and that what cannot be decided is not delivered."""

from __future__ import annotations

import asyncio
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ffcompletion as ffc
from ffcompletion.contract.combining import AllOf, AnyOf, is_plain, namespaces_of

NAMES = st.one_of(st.none(), st.sampled_from(["a", "b", ""]))
VALUES = st.one_of(st.none(), st.sampled_from(["x", "y"]))


class Raises(msgspec.Struct, frozen=True):
    """A filter that cannot tell."""

    tag_key: str | None = None

    def is_noop(self) -> bool:
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        raise LookupError(core_namespace)


class Answers(msgspec.Struct, frozen=True):
    """A filter of an untyped caller's."""

    answer: object
    tag_key: str | None = None

    def is_noop(self) -> bool:
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        return self.answer  # type: ignore[return-value]  # the point


def filters(names: st.SearchStrategy[str | None]) -> st.SearchStrategy[ffc.CompletionFilter]:
    """Made of one another, of ``ScannerFilter``s for these namespaces, of predicates, and of one that cannot tell."""
    leaves: st.SearchStrategy[ffc.CompletionFilter] = st.one_of(
        st.builds(ffc.ScannerFilter, names, st.one_of(st.none(), st.tuples(st.just("k"), st.sampled_from(["x", "y"])))),
        st.just(Raises()),
        st.just(ffc.matching(lambda namespace, _: namespace != "a")),
        st.just(ffc.matching(lambda _, value: value == "x", tag_key="k", unknown=True)),
    )
    return st.recursive(
        leaves,
        lambda inner: st.tuples(st.sampled_from([ffc.any_of, ffc.all_of]), st.lists(inner, min_size=1, max_size=3)).map(
            lambda made: made[0](*made[1])
        ),
        max_leaves=6,
    )


FILTERS = filters(NAMES)


def said(wanted: ffc.CompletionFilter, namespace: str | None, value: str | None) -> bool | None:
    """Yes, no, or that it cannot tell."""
    try:
        return wanted.matches(namespace, value)
    except LookupError:
        return None


@given(st.lists(FILTERS, min_size=1, max_size=4), NAMES, VALUES)
def test_any_and_all_are_those_of_three_valued_logic(
    parts: list[ffc.CompletionFilter], namespace: str | None, value: str | None
) -> None:
    """One yes makes ``any_of``, one no breaks ``all_of``, and otherwise one that cannot tell withholds."""
    answers = [said(part, namespace, value) for part in parts]
    any_says = True if True in answers else None if None in answers else False
    all_says = False if False in answers else None if None in answers else True
    assert said(ffc.any_of(*parts), namespace, value) is any_says
    assert said(ffc.all_of(*parts), namespace, value) is all_says


@given(FILTERS, FILTERS, FILTERS, NAMES, VALUES)
def test_the_laws(
    a: ffc.CompletionFilter, b: ffc.CompletionFilter, c: ffc.CompletionFilter, namespace: str | None, value: str | None
) -> None:
    """Order, grouping and repetition do not matter; each distributes over the other."""
    for one, other in (ffc.any_of, ffc.all_of), (ffc.all_of, ffc.any_of):
        for left, right in (
            (one(a, b), one(b, a)),
            (one(one(a, b), c), one(a, one(b, c))),
            (one(a, a), a),
            (one(a, other(a, b)), one(a, other(a, b), a)),
            (one(a, other(b, c)), other(one(a, b), one(a, c))),
        ):
            assert said(left, namespace, value) is said(right, namespace, value)


@given(FILTERS, FILTERS, NAMES, VALUES)
def test_a_no_op_is_neutral_for_all_and_absorbs_any(
    a: ffc.CompletionFilter, b: ffc.CompletionFilter, namespace: str | None, value: str | None
) -> None:
    """And a no-op is what admits everything."""
    assert said(ffc.all_of(ffc.ScannerFilter.NOOP, a), namespace, value) is said(a, namespace, value)
    assert ffc.any_of(ffc.ScannerFilter.NOOP, a).is_noop()
    for wanted in ffc.any_of(a, b), ffc.all_of(a, b):
        if wanted.is_noop():
            assert said(wanted, namespace, value) is not False


@given(NAMES, NAMES, VALUES)
def test_tenants_stay_apart(mine: str | None, theirs: str | None, value: str | None) -> None:
    """Whatever is asked for beside it, ``all_of`` with a tenant's namespace admits that tenant's alone."""
    greedy = ffc.matching(lambda _namespace, _value: True, unknown=True)
    wanted = ffc.all_of(ffc.ScannerFilter("a"), ffc.any_of(greedy, ffc.ScannerFilter(theirs)))
    assert wanted.matches(mine, value) is (mine == "a")


def test_made_one_where_it_can_be() -> None:
    """So that a server can decide it."""
    tenant, tag = ffc.ScannerFilter("a"), ffc.ScannerFilter(None, ("k", "x"))
    assert ffc.all_of(tenant, tag) == ffc.ScannerFilter("a", ("k", "x"))
    assert ffc.any_of(tenant) is tenant
    assert ffc.any_of(tenant, ffc.ScannerFilter("a")) == tenant
    contradiction = ffc.all_of(tenant, ffc.ScannerFilter("b"))
    assert isinstance(contradiction, AllOf)
    assert not contradiction.matches("a", None)
    assert not contradiction.matches("b", None)
    nested = ffc.any_of(tenant, ffc.any_of(ffc.ScannerFilter("b"), tag))
    assert isinstance(nested, AnyOf)
    assert len(nested.parts) == 3
    assert nested.tag_key == "k"


def test_what_cannot_be_is_refused() -> None:
    """No filter, which would be nobody's or everybody's; two tags; no function."""
    none: list[ffc.CompletionFilter] = []
    for make in ffc.any_of, ffc.all_of:
        with pytest.raises(ffc.Validation, match="no filter"):
            make(*none)
        with pytest.raises(ffc.Validation, match="these want 'k', 'l'"):
            make(ffc.ScannerFilter(None, ("k", "x")), ffc.ScannerFilter(None, ("l", "x")))
    with pytest.raises(ffc.Validation, match="key must not be empty"):
        ffc.matching(lambda _namespace, _value: True, tag_key="")
    nothing: object = 7
    with pytest.raises(ffc.Validation, match="cannot be called"):
        ffc.matching(nothing)  # type: ignore[arg-type]  # the point


def test_a_predicate_is_asked_for_what_is_known_alone() -> None:
    """Unless it wants to be; and only a bool is an answer."""
    wanted = ffc.matching(lambda namespace, value: (namespace, value) != ("a", "x"), tag_key="k")
    assert wanted.matches("b", "x")
    assert not wanted.matches(None, "x")
    assert not wanted.matches("b", None)
    assert ffc.matching(lambda namespace, _: namespace is None, unknown=True).matches(None, None)
    odd: object = lambda _namespace, _value: 1  # noqa: E731  # an untyped caller's
    with pytest.raises(TypeError, match="no bool"):
        ffc.matching(odd).matches("a", None)  # type: ignore[arg-type]  # the point


YES, NO = ffc.ScannerFilter("a"), ffc.ScannerFilter("b")


@pytest.mark.parametrize(
    ("parts", "any_says", "all_says"),
    [
        ((YES, NO), True, False),
        ((NO, ffc.ScannerFilter("c")), False, False),
        ((YES, ffc.ScannerFilter(None, ("k", "x"))), True, True),
        ((Raises(), YES), True, None),
        ((Raises(), NO), None, False),
        ((YES, Raises()), True, None),
    ],
)
def test_one_yes_one_no_or_one_that_cannot_tell(
    parts: tuple[ffc.CompletionFilter, ...], any_says: bool | None, all_says: bool | None
) -> None:
    assert said(ffc.any_of(*parts), "a", "x") is any_says
    assert said(ffc.all_of(*parts), "a", "x") is all_says


def test_what_admits_everything() -> None:
    """Any that has a no-op among its parts, all of nothing but no-ops; what a function admits cannot be told."""
    noop, greedy = ffc.ScannerFilter.NOOP, ffc.matching(lambda _namespace, _value: True, unknown=True)
    assert [wanted.is_noop() for wanted in (ffc.any_of(YES, noop), ffc.any_of(YES, NO))] == [True, False]
    assert [wanted.is_noop() for wanted in (ffc.all_of(noop, noop), ffc.all_of(greedy, noop))] == [True, False]
    assert not greedy.is_noop()


def test_parts_are_kept_once_and_those_of_others_only_compared_by_what_they_are() -> None:
    one, other = Raises(), Raises()
    assert one == other
    made = ffc.any_of(one, other, one, YES, ffc.ScannerFilter("a"))
    assert isinstance(made, AnyOf)
    assert [id(part) for part in made.parts] == [id(one), id(other), id(YES)]
    made = ffc.all_of(one, one, YES, ffc.ScannerFilter(None, ("k", "x")), ffc.any_of(YES, NO))
    assert isinstance(made, AllOf)
    assert made.parts == (ffc.ScannerFilter("a", ("k", "x")), one, AnyOf((YES, NO), None))
    assert (made.tag_key, ffc.all_of(one, other).tag_key) == ("k", None)


def test_of_thousands_of_tenants() -> None:
    """As many steps as there are parts, or seconds would be spent on the event loop."""
    tenants = [ffc.ScannerFilter(f"tenant-{number}") for number in range(8_000)]
    made = ffc.any_of(*tenants, *tenants)
    assert isinstance(made, AnyOf)
    assert made.parts == tuple(tenants)
    assert made == pickle.loads(pickle.dumps(made))
    for number in range(8_000):
        assert made.matches(f"tenant-{number}", None)
        assert not made.matches(f"{number}", None)
    assert made.namespaces == frozenset(f"tenant-{number}" for number in range(8_000))


def test_an_answer_that_is_no_bool_withholds() -> None:
    """Unless another part decides it."""
    odd = Answers(1)
    for wanted, decided in (ffc.any_of(odd, YES), True), (ffc.all_of(odd, NO), False):
        assert wanted.matches("a", None) is decided
    for wanted in ffc.any_of(odd, NO), ffc.all_of(odd, YES):
        with pytest.raises(TypeError, match="a part answered a int"):
            wanted.matches("a", None)


class Whole(msgspec.Struct, frozen=True):
    """A filter of an untyped caller's: what it says to whether it admits everything."""

    says: object
    tag_key: str | None = None

    def is_noop(self) -> bool:
        return self.says  # type: ignore[return-value]  # the point

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        return core_namespace == "a"


@pytest.mark.parametrize("says", ["no", 1, object(), None, ()])
def test_what_does_not_say_in_a_bool_that_it_admits_everything_does_not(says: object) -> None:
    """Or a stream of one tenant's would be everybody's."""
    odd = Whole(says)
    for wanted in ffc.any_of(YES, odd), ffc.all_of(odd, Whole(says)), ffc.any_of(ffc.all_of(odd, Whole(True)), YES):
        with pytest.raises(TypeError, match="is_noop"):
            wanted.is_noop()
    assert ffc.any_of(ffc.ScannerFilter.NOOP, odd).is_noop()
    assert not ffc.all_of(YES, odd).is_noop()


@pytest.mark.parametrize("raised", [SystemExit, asyncio.CancelledError, GeneratorExit])
def test_whatever_a_part_raises_another_may_decide(raised: type[BaseException]) -> None:
    """In any order; a person at the keyboard alone is not held up."""

    def leave(_namespace: str | None, _value: str | None) -> bool:
        raise raised

    part = ffc.matching(leave)
    assert ffc.any_of(part, YES).matches("a", None)
    assert ffc.any_of(YES, part).matches("a", None)
    assert not ffc.all_of(part, NO).matches("a", None)
    with pytest.raises(raised):
        ffc.any_of(part, NO).matches("a", None)
    raised = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        ffc.any_of(part, NO).matches("a", None)


def test_which_namespaces_may_be_admitted() -> None:
    """Where that cannot be told, a row of any may be."""
    a, b = YES, ffc.ScannerFilter("b", ("k", "x"))
    tag = ffc.ScannerFilter(None, ("k", "x"))
    assert [namespaces_of(wanted) for wanted in (a, tag, Raises())] == [{"a"}, None, None]
    assert [namespaces_of(ffc.any_of(*parts)) for parts in ((a, b), (a, tag), (a, Raises()))] == [
        {"a", "b"},
        None,
        None,
    ]
    assert namespaces_of(AllOf((a, b), "k")) == frozenset()
    assert namespaces_of(ffc.all_of(Raises(), ffc.any_of(a, b), a)) == frozenset({"a"})
    assert namespaces_of(ffc.all_of(Raises(), Raises())) is None
    assert [is_plain(wanted) for wanted in (a, ffc.any_of(a, b), ffc.any_of(a, Raises()), Raises())] == [
        True, True, False, False,
    ]  # fmt: skip


def test_parts_that_are_shared_are_counted_each_time() -> None:
    """A part of two others is asked twice, and each level doubles that: neither making nor asking it may take for ever."""
    made: ffc.CompletionFilter = ffc.matching(lambda namespace, _: namespace == "a")
    others = [ffc.matching(lambda namespace, _: namespace == "b") for _ in range(2)]
    with pytest.raises(ffc.Validation, match="more than 4,096 are within each other"):
        for depth in range(30):
            one, both = (ffc.any_of, ffc.all_of) if depth % 2 else (ffc.all_of, ffc.any_of)
            made = both(*(one(made, other) for other in others))
    assert not made.matches("c", None)


def test_filters_within_filters_are_bounded() -> None:
    """Each asks the next: a stack that one stream's filter fills is everybody's reader's."""
    made: ffc.CompletionFilter = ffc.ScannerFilter("a")
    with pytest.raises(ffc.Validation, match="more than 32 are within each other"):
        for depth in range(100):
            kind = ffc.any_of if depth % 2 else ffc.all_of
            made = kind(made, ffc.matching(lambda namespace, _: namespace == "a"))
