"""The same for code without an event loop: threads, web views, notebooks, scripts.

::

    with ffcompletion.sync.connect("valkey://localhost:6379") as backend:
        done = backend.wait_for_completion(execution_id, timeout=30)
        for completion in backend.subscribe():
            print(completion.execution_id)

All backends share one background thread with one event loop, which runs while any of them is open. Everything here
may be called from any thread, many at once, and never from a coroutine: there, use the asynchronous calls.
"""

from typing_extensions import Unpack

from ffcompletion.options import ConnectOptions
from ffcompletion.sync.backend import Backend
from ffcompletion.sync.checkpointed import Checkpointed
from ffcompletion.sync.stream import Stream
from ffcompletion.urls import connect as connect_async

__all__ = ["Backend", "Checkpointed", "Stream", "connect"]


def connect(url: str, **options: Unpack[ConnectOptions]) -> Backend:
    """A backend for this URL, to be used in ``with``; the arguments and errors of ``ffcompletion.connect``."""
    return Backend(connect_async(url, **options))
