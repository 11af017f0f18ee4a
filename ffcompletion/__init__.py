"""Know, from Python, that an execution has finished: now, for the right tenant, and without losing any.

::

    async with ffcompletion.connect("valkey://localhost:6379") as backend:
        async with ffcompletion.subscribe(backend) as stream:
            async for completion in stream:
                print(completion.execution_id, completion.outcome)

Importing this loads no driver; ``connect`` imports the one that the URL asks for.
"""

from ffcompletion.consumers.subscribing import subscribe
from ffcompletion.contract.assertion import assert_completion_backend
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import (
    CursorExpired,
    EngineError,
    NotFound,
    ResourceExhausted,
    Transport,
    Unavailable,
    Validation,
)
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.ids import ExecutionId, FlowId, Namespace
from ffcompletion.contract.payload import CompletionPayload, Outcome
from ffcompletion.contract.protocols import (
    CompletionBackend,
    CompletionFilter,
    CompletionStream,
    ExecutionReader,
    ResumableCompletionBackend,
)
from ffcompletion.contract.snapshot import ExecutionSnapshot
from ffcompletion.contract.stats import BackendEvent, BackendState, BackendStats, Observer, StreamStats
from ffcompletion.urls import Backend, connect

__all__ = [
    "Backend",
    "BackendEvent",
    "BackendState",
    "BackendStats",
    "CompletionBackend",
    "CompletionFilter",
    "CompletionPayload",
    "CompletionStream",
    "CursorExpired",
    "EngineError",
    "ExecutionId",
    "ExecutionReader",
    "ExecutionSnapshot",
    "FlowId",
    "Namespace",
    "NotFound",
    "Observer",
    "Outcome",
    "ResourceExhausted",
    "ResumableCompletionBackend",
    "ScannerFilter",
    "StreamCursor",
    "StreamStats",
    "Transport",
    "Unavailable",
    "Validation",
    "__version__",
    "assert_completion_backend",
    "connect",
    "subscribe",
]

__version__ = "0.1.0"
