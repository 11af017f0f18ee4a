"""Setting up waits for writers: what is said of who holds it, and one lock for all of it."""

from importlib.resources import files

import pytest

from ffcompletion.attaching.rendering import LOCK
from ffcompletion.backends.postgres.locking import SETTING_UP, held_by


@pytest.mark.parametrize(
    ("holder", "told"),
    [
        (None, "app.jobs is held by a transaction that does not end; end it, and attach again"),
        (
            (7, ", repack, idle in transaction", 3, "relation"),
            "app.jobs is held by a transaction that does not end (pid 7, repack, idle in transaction, for 3 s); end it, and"
            " attach again",
        ),
        (
            (8, ", active", 0, "advisory"),
            "setting up is held by a transaction that does not end (pid 8, active, for 0 s); end it, and attach again",
        ),
    ],
)
def test_who_holds_it_is_named(holder: tuple[object, ...] | None, told: str) -> None:
    assert held_by("app.jobs", holder, "attach") == told


def test_all_of_it_takes_the_same_lock() -> None:
    """Scripts are pasted without us, and have to spell it themselves."""
    scripts = [each for each in files("ffcompletion.producers").iterdir() if each.name.endswith(".sql")]
    taken = f"pg_advisory_xact_lock(hashtextextended('{SETTING_UP}', 0))"
    assert len(scripts) == 3
    assert all(script.read_text(encoding="utf-8").count(taken) == 1 for script in scripts)
    assert taken in LOCK
