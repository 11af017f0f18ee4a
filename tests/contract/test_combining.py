"""Filters made of filters: their laws, and that what cannot be decided is not delivered, on real servers too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ffcompletion as ffc
from ffcompletion.contract.combining import AllOf, AnyOf
from tests.worlds import World, done

NAMES = st.one_of(st.none(), st.sampled_from(["a", "b", ""]))
VALUES = st.one_of(st.none(), st.sampled_from(["x", "y"]))


class Raises(msgspec.Struct, frozen=True):
    """A filter that cannot tell."""

    tag_key: str | None = None

    def is_noop(self) -> bool:
        return False

    def matches(self, core_namespace: str | None, tag_value: str | None, /) -> bool:
        raise LookupError(core_namespace)


LEAVES: st.SearchStrategy[ffc.CompletionFilter] = st.one_of(
    st.builds(ffc.ScannerFilter, NAMES, st.one_of(st.none(), st.tuples(st.just("k"), st.sampled_from(["x", "y"])))),
    st.just(Raises()),
    st.just(ffc.matching(lambda namespace, _: namespace != "a")),
    st.just(ffc.matching(lambda _, value: value == "x", tag_key="k", unknown=True)),
)
FILTERS: st.SearchStrategy[ffc.CompletionFilter] = st.recursive(
    LEAVES,
    lambda inner: st.tuples(st.sampled_from([ffc.any_of, ffc.all_of]), st.lists(inner, min_size=1, max_size=3)).map(
        lambda made: made[0](*made[1])
    ),
    max_leaves=6,
)


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


async def test_on_every_server_a_stream_gets_what_its_filter_admits(world: World) -> None:
    """For pairs of filters and executions, one that raises among them; live, and from the beginning where there is a log."""
    tags: list[Mapping[str, str]] = [{}, {"k": "x"}, {"k": "y", "l": "x"}]
    items = [done(namespace=name, tags=tag) for name in (None, "a", "b") for tag in tags]
    filters = {
        "either": ffc.any_of(ffc.ScannerFilter("a"), ffc.ScannerFilter("b", ("k", "x"))),
        "both": ffc.all_of(ffc.ScannerFilter("a"), ffc.ScannerFilter(None, ("k", "y"))),
        "neither": ffc.all_of(ffc.ScannerFilter("a"), ffc.ScannerFilter("b")),
        "not a": ffc.matching(lambda namespace, _: namespace != "a"),
        "tagged": ffc.matching(lambda _, value: value is not None, tag_key="k", unknown=True),
        "cannot tell": ffc.any_of(ffc.ScannerFilter("a"), Raises()),
    }
    async with world.backend() as backend:
        streams = {name: await backend.subscribe_completions_filtered(wanted) for name, wanted in filters.items()}
        await world.announce(*items)
        if isinstance(backend, ffc.ResumableBackend):
            beginning = ffc.StreamCursor.beginning()
            for name, wanted in filters.items():
                streams[f"{name}, stored"] = await backend.subscribe_completions_from(beginning, wanted)
        for name, stream in streams.items():
            wanted = filters[name.partition(",")[0]]
            expected = [
                item.execution_id
                for item in items
                if said(wanted, item.namespace, item.tags.get(wanted.tag_key or "")) is True
            ]
            got: list[str] = []
            async with asyncio.timeout(20):
                while len(got) < len(expected):
                    got.append((await anext(stream)).execution_id)
            assert sorted(got) == sorted(expected), name
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(stream)
            await stream.aclose()
