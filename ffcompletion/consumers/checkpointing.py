"""``checkpointed``: every completion processed at least once, over restarts."""

from __future__ import annotations

from typing_extensions import Unpack

from ffcompletion.consumers.options import CheckpointedOptions
from ffcompletion.consumers.processing import Checkpointed
from ffcompletion.contract.checkpoint import CheckpointStore
from ffcompletion.contract.protocols import Backend, CompletionFilter, ResumableCompletionBackend

__all__ = ["checkpointed"]


def checkpointed(
    backend: ResumableCompletionBackend | Backend,
    store: CheckpointStore,
    name: str,
    filter: CompletionFilter | None = None,  # noqa: A002  # the contract's own word
    **options: Unpack[CheckpointedOptions],
) -> Checkpointed:
    """Go on where the consumer called ``name`` stopped, and remember how far it has come.

    ::

        async with checkpointed(backend, FileCheckpoints("promoter.cursor"), "promoter") as completions:
            async for completion in completions:
                await promote(completion)

    The cursor is stored behind the consumer, at most every ``save_interval`` seconds: only what the loop's body has
    ended for, and everything before it. So each completion is processed at least once, and the last few again after a
    crash. The one in hand when the loop is left, by ``break`` as by an error, counts as not processed, unless
    ``commit()`` was called: the next loop begins with it. ``run`` processes several at once; a loop is one task's.

    - ``start``: where to begin if nothing is stored yet; None is from now, and stored at once.
    - ``filter``, ``partitions``, ``results``: as for ``subscribe``. A checkpoint that was stored for others, or for
      another kind of backend, is refused with ``Validation`` and left as it is.
    - ``selection``: what a filter of your own admits, in words that change when it does. Needed with any filter but
      ``ScannerFilter`` and what ``any_of`` and ``all_of`` make of those, because two objects of one class may admit
      different things, and what the one did not admit would be passed over for the other. Of a position that an earlier
      version stored by the name of a class that has another by now, that name.
    - ``lease``: the name is this consumer's alone until the block ends, or its process: ``"raise"`` raises
      ``Unavailable`` where another has it, ``"wait"`` waits until it is free. ``FileCheckpoints`` and
      ``PostgresCheckpoints`` can; a store that is no ``LeasingStore`` raises ``Unavailable``.

    Entering raises ``Unavailable`` if the backend is not resumable (one of ``connect`` may be a server that is not), and what subscribing and ``store`` raise. What
    ``store.save`` raises later, the loop raises.
    """
    return Checkpointed(backend, store, name, filter, **options)
