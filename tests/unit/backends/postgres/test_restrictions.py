"""Tables that row-level security hides rows of: each told once when it begins, and once when it is over."""

import pytest

from ffcompletion.backends.postgres.restrictions import Restrictions


def test_each_change_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ffcompletion.postgres")
    restrictions = Restrictions()
    told: list[list[tuple[str, str]]] = []
    for tables in ([], ["outbox"], ["outbox"], ["outbox", "core"], [], []):
        restrictions.found(tables, 0.0)
        told.append([(each.levelname, each.getMessage().partition(" on ")[2][:6]) for each in caplog.records])
        caplog.clear()
    assert told == [
        [],
        [("WARNING", "outbox")],
        [],
        [("WARNING", "core: ")],
        [("INFO", "core"), ("INFO", "outbox")],
        [],
    ]


def test_it_is_looked_for_now_and_then() -> None:
    restrictions = Restrictions()
    assert restrictions.due(5.0)
    restrictions.found([], 5.0)
    assert not restrictions.due(34.0)
    assert restrictions.due(35.0)
