"""What a client may see: what is not granted does not exist for it."""

from __future__ import annotations

from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.web.grants import Grant

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")
TAG = ("k", "v")
ALL = Grant.everything()
SOME = [
    ALL,
    Grant.of(),
    Grant.of("a"),
    Grant.of("a", "b"),
    Grant(instance_tag=TAG),
    Grant(namespaces=frozenset("ab"), instance_tag=TAG),
]
SNAPSHOTS = [
    ffc.ExecutionSnapshot(execution_id=ID, namespace=namespace, tags=tags)
    for namespace in (None, "", "a", "b", "c")
    for tags in ({}, {"k": "v"}, {"k": "w"})
]


@pytest.mark.parametrize("grant", SOME)
def test_the_stream_s_filter_admits_what_the_grant_does(grant: Grant) -> None:
    """Streams and questions have one answer."""
    wanted = grant.as_filter()
    assert wanted.is_noop() is grant.is_everything
    for snapshot in SNAPSHOTS:
        tag = None if wanted.tag_key is None else snapshot.tags.get(wanted.tag_key)
        assert wanted.matches(snapshot.namespace, tag) is grant.admits(snapshot)


@pytest.mark.parametrize("grant", SOME)
@pytest.mark.parametrize("namespace", [None, "a", "c"])
@pytest.mark.parametrize("tag", [None, TAG, ("k", "w")])
def test_what_is_asked_for_is_seen_as_far_as_it_is_granted(
    grant: Grant, namespace: str | None, tag: tuple[str, str] | None
) -> None:
    """All of it, and nothing else; refused where it is more than is granted."""
    asked = Grant(namespaces=None if namespace is None else frozenset({namespace}), instance_tag=tag)
    narrowed = grant.narrowed(namespace, tag)
    if narrowed is None:
        assert not grant.covers(asked)
        return
    assert grant.covers(narrowed)
    for snapshot in SNAPSHOTS:
        assert narrowed.admits(snapshot) is (grant.admits(snapshot) and asked.admits(snapshot))


def test_what_is_granted_can_be_asked_for() -> None:
    assert ALL.narrowed("a", TAG) == Grant(namespaces=frozenset("a"), instance_tag=TAG)
    assert Grant.of("a", "b").narrowed("a", None) == Grant.of("a")
    assert [grant.narrowed(None, None) for grant in SOME] == SOME


def test_more_than_is_granted_cannot_be_asked_for() -> None:
    assert Grant.of("a").narrowed("b", None) is None
    assert Grant(instance_tag=TAG).narrowed(None, ("k", "w")) is None
    assert not Grant.of("a").covers(ALL)
    assert not Grant.of("a").covers(Grant.of("a", "b"))
    assert not Grant(instance_tag=TAG).covers(ALL)
    assert [grant.is_everything for grant in SOME] == [True, False, False, False, False, False]


@pytest.mark.parametrize(
    "fields",
    [
        {"namespaces": "tenant-a"},
        {"namespaces": [7]},
        {"namespaces": ["\0"]},
        {"instance_tag": "k"},
        {"instance_tag": ("", "v")},
    ],
)
def test_what_is_no_grant_is_refused(fields: dict[str, Any]) -> None:
    """One string would grant every tenant whose name is a part of it."""
    with pytest.raises(ffc.Validation):
        Grant(**fields)
