"""``ScannerFilter``: a value, and what it admits."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import ffcompletion as ffc

NAMES = st.one_of(st.none(), st.sampled_from(["a", "b", "", "A"]))
TAGS = st.one_of(st.none(), st.tuples(st.sampled_from(["k", "l"]), st.sampled_from(["x", "y", ""])))
FILTERS = st.builds(ffc.ScannerFilter, NAMES, TAGS)


@given(FILTERS, NAMES, NAMES)
@example(ffc.ScannerFilter(""), "b", None)
def test_filter_algebra(wanted: ffc.ScannerFilter, namespace: str | None, value: str | None) -> None:
    """The no-op is neutral; adding a dimension never admits more; unknown never matches."""
    admitted = wanted.matches(namespace, value)
    assert ffc.ScannerFilter.NOOP.matches(namespace, value)
    assert wanted.is_noop() == (wanted.namespace is None and wanted.instance_tag is None)
    if wanted.is_noop():
        assert admitted
    if not admitted:
        assert not (wanted if wanted.namespace is not None else wanted.with_namespace("a")).matches(namespace, value)
        assert not (wanted if wanted.instance_tag is not None else wanted.with_instance_tag("k", "x")).matches(
            namespace, value
        )
    if wanted.namespace is not None:
        assert not wanted.matches(None, value)
    if wanted.instance_tag is not None:
        assert not wanted.matches(namespace, None)


@given(FILTERS)
def test_filters_are_values(wanted: ffc.ScannerFilter) -> None:
    """Equal, hashable, immutable."""
    twin = ffc.ScannerFilter(wanted.namespace, wanted.instance_tag)
    assert wanted == twin
    assert hash(wanted) == hash(twin)
    with pytest.raises(AttributeError):
        wanted.namespace = "other"  # type: ignore[misc]  # the point


@pytest.mark.parametrize(
    ("namespace", "tag"),
    [(7, None), (b"a", None), (None, "k"), (None, ("k",)), (None, ("k", 7)), (None, ["k", "v"]), (None, ("", "v"))],
)
def test_bad_filters_are_refused_at_construction(namespace: object, tag: object) -> None:
    """A wrong type or an empty tag key."""
    with pytest.raises(ffc.Validation, match="filter"):
        ffc.ScannerFilter(namespace, tag)  # type: ignore[arg-type]  # the point
