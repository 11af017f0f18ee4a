"""Know, from Python, that an execution has finished: now, for the right tenant, and without losing any.

::

    async with ffcompletion.connect("valkey://localhost:6379") as backend:
        async with ffcompletion.subscribe(backend) as stream:
            async for completion in stream:
                print(completion.execution_id, completion.outcome)

Importing this loads no driver; ``connect`` imports the one that the URL asks for.
"""

from typing import TYPE_CHECKING

from ffcompletion.consumers.subscribing import subscribe
from ffcompletion.contract.assertion import assert_completion_backend
from ffcompletion.contract.attached import attached_flow_id, attached_id, attached_key
from ffcompletion.contract.checkpoint import Checkpoint, CheckpointStore, LeasingStore, StoredCheckpoint
from ffcompletion.contract.combining import all_of, any_of, matching
from ffcompletion.contract.cursor import CursorFamily, StreamCursor
from ffcompletion.contract.errors import (
    CursorExpired,
    EngineError,
    NotFound,
    ResourceExhausted,
    StateUnknown,
    Transport,
    Unavailable,
    Validation,
)
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.ids import ExecutionId, FlowId, Namespace
from ffcompletion.contract.payload import CompletionPayload, Outcome
from ffcompletion.contract.protocols import (
    Backend,
    CompletionBackend,
    CompletionFilter,
    CompletionStream,
    ExecutionReader,
    FlowBackend,
    FlowReader,
    ResumableBackend,
    ResumableCompletionBackend,
    Subscription,
)
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendEvent, BackendState, BackendStats, Lag, Observer, StreamStats
from ffcompletion.urls import connect

if TYPE_CHECKING:
    from ffcompletion import sync
    from ffcompletion.backends.memory import MemoryBackend
    from ffcompletion.consumers.checkpointing import checkpointed
    from ffcompletion.consumers.checkpoints import FileCheckpoints
    from ffcompletion.consumers.generators import GeneratorStream, stream_of
    from ffcompletion.consumers.processing import Checkpointed
    from ffcompletion.consumers.progress import Processed
    from ffcompletion.consumers.sharing import Broadcast, BroadcastStream, broadcast
    from ffcompletion.consumers.waiting import as_completed, wait_for_all, wait_for_completion, wait_for_flow

__all__ = [
    "Backend",
    "BackendEvent",
    "BackendState",
    "BackendStats",
    "Broadcast",
    "BroadcastStream",
    "Checkpoint",
    "CheckpointStore",
    "Checkpointed",
    "CompletionBackend",
    "CompletionFilter",
    "CompletionPayload",
    "CompletionStream",
    "CursorExpired",
    "CursorFamily",
    "EngineError",
    "ExecutionId",
    "ExecutionReader",
    "ExecutionSnapshot",
    "FileCheckpoints",
    "FlowBackend",
    "FlowId",
    "FlowReader",
    "GeneratorStream",
    "Lag",
    "LeasingStore",
    "MemoryBackend",
    "Namespace",
    "NotFound",
    "Observer",
    "Outcome",
    "Processed",
    "ResourceExhausted",
    "ResumableBackend",
    "ResumableCompletionBackend",
    "ScannerFilter",
    "StateUnknown",
    "StoredCheckpoint",
    "StreamCursor",
    "StreamStats",
    "Subscription",
    "Transport",
    "Unavailable",
    "Validation",
    "__version__",
    "all_of",
    "any_of",
    "as_completed",
    "assert_completion_backend",
    "attached_flow_id",
    "attached_id",
    "attached_key",
    "broadcast",
    "checkpointed",
    "connect",
    "matching",
    "stream_of",
    "subscribe",
    "sync",
    "wait_for_all",
    "wait_for_completion",
    "wait_for_flow",
]

__version__ = "0.1.0"

# Loaded when first used: they need asyncio, which costs more to import than everything above.
_LATER = {
    "Broadcast": "consumers.sharing",
    "BroadcastStream": "consumers.sharing",
    "Checkpointed": "consumers.processing",
    "FileCheckpoints": "consumers.checkpoints",
    "GeneratorStream": "consumers.generators",
    "MemoryBackend": "backends.memory",
    "Processed": "consumers.progress",
    "as_completed": "consumers.waiting",
    "broadcast": "consumers.sharing",
    "checkpointed": "consumers.checkpointing",
    "stream_of": "consumers.generators",
    "sync": "sync",
    "wait_for_all": "consumers.waiting",
    "wait_for_completion": "consumers.waiting",
    "wait_for_flow": "consumers.waiting",
}


if not TYPE_CHECKING:
    # Type checkers know the names from above, and no other.
    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  # only here

        module = import_module(f"{__name__}.{_LATER[name]}")
        found = globals()[name] = module if name == "sync" else getattr(module, name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
