"""Places: as many as there are, and the last of them for those who have few."""

from __future__ import annotations

from contextlib import ExitStack

from ffcompletion.web.grants import Grant
from ffcompletion.web.places import Places

A, B, ALL = Grant.of("a"), Grant.of("b"), Grant.everything()


def enters(stack: ExitStack, places: Places, grant: Grant) -> bool:
    """As a request does: a place, and then whose it is."""
    with ExitStack() as mine:
        if not (mine.enter_context(places.place()) and mine.enter_context(places.of(grant))):
            return False
        stack.enter_context(mine.pop_all())
        return True


def test_one_tenant_leaves_places_for_another() -> None:
    """Three quarters for whoever comes first; of the rest its share for each; and all of it is given back."""
    places = Places(16)
    with ExitStack() as stack:
        assert [enters(stack, places, A) for _ in range(30)].count(True) == 12
        assert [enters(stack, places, B) for _ in range(30)].count(True) == 4
        assert places.taken == 16
        assert not enters(stack, places, ALL), "there is none"
    assert places.taken == 0
    with ExitStack() as stack:
        assert [enters(stack, places, B) for _ in range(30)].count(True) == 12


def test_who_may_see_everything_may_have_every_place() -> None:
    places = Places(16)
    with ExitStack() as stack:
        assert [enters(stack, places, ALL) for _ in range(30)].count(True) == 16


def test_many_tenants_have_a_share_each() -> None:
    places = Places(100)
    with ExitStack() as stack:
        for number in range(40):
            assert enters(stack, places, Grant.of(str(number)))
            assert enters(stack, places, Grant.of(str(number))) is (number < 37), number


def test_a_single_place_is_for_whoever_comes() -> None:
    places = Places(1)
    with ExitStack() as stack:
        assert enters(stack, places, ALL)
        assert not enters(stack, places, A)
