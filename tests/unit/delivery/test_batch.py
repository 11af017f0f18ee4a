"""Facts that are not known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ffcompletion.delivery.batch import DISPUTED, UNREADABLE


@pytest.mark.parametrize("tags", [UNREADABLE, DISPUTED])
def test_each_tag_may_be_there_and_cannot_be_read(tags: Mapping[str, str | None]) -> None:
    """So who asks for one cannot tell; and there is none that could be listed."""
    assert "k" in tags
    assert tags["k"] is None
    assert tags.get("k", "v") is None
    assert (list(tags), len(tags)) == ([], 0)
