"""One backend of the gallery, held against every clause. Imports little: it runs in processes of its own."""

from __future__ import annotations

import asyncio
import gc

from ffcompletion.testing import Options, Report, check_backend
from tests.gallery.broken import GALLERY
from tests.gallery.right import RETENTION, Exchange, Right

__all__ = ["broken_clauses", "examine"]


async def examine(kind: type[Right]) -> Report:
    """Held against every clause, under faults, with little patience."""
    exchange, nowhere = Exchange(), Exchange()
    nowhere.open.clear()
    options = Options(
        faults=exchange,
        unreachable=lambda: kind(nowhere),
        connections=exchange.connections,
        burst=150,
        flood=400,
        holds=RETENTION,
        patience_s=0.8,
        setup_s=2.5,
        closing_s=0.5,
    )
    report = await check_backend(lambda: kind(exchange), exchange, options)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    return report


def broken_clauses(name: str) -> list[str]:
    """The clauses that the one of this name breaks."""
    kinds: list[type[Right]] = [Right, *GALLERY]
    (kind,) = [kind for kind in kinds if kind.__name__ == name]
    # The checks collect garbage; what was imported is none.
    gc.freeze()
    return asyncio.run(examine(kind)).broken
