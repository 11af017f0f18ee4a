"""``python -m tests.gallery``: the table of broken backends, and what the kit says of each."""

from __future__ import annotations

import asyncio
import sys

from tests.gallery.broken import GALLERY, Broken
from tests.gallery.examining import examine
from tests.gallery.right import Right


async def table(kinds: list[type[Right]]) -> bool:
    """Print it; whether each is as expected."""
    sound = True
    for kind in kinds:
        report = await examine(kind)
        expected = kind.breaks if issubclass(kind, Broken) else set()
        same = set(report.broken) == expected
        sound = sound and same
        wrong = "" if same else f"  expected {', '.join(sorted(expected))}"
        print(
            f"{'ok ' if same else 'NOT'} {kind.__name__:<26} {', '.join(report.broken) or 'keeps every clause'}{wrong}",
            flush=True,
        )
        if not same:
            print(report)
    return sound


if __name__ == "__main__":
    kinds: list[type[Right]] = [Right, *GALLERY]
    chosen = [kind for kind in kinds if not sys.argv[1:] or kind.__name__ in sys.argv[1:]]
    sys.exit(0 if asyncio.run(table(chosen)) else 1)
