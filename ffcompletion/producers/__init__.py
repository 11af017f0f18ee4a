"""The announcing side, for programs that have no FlowFabric: SQL and Lua that run inside the server.

There is no publish method in Python, on purpose: announcing belongs inside the transaction that finishes the work.
"""

from ffcompletion.producers.calls import Call, completion_call, submission_call
from ffcompletion.producers.installing import RETENTION, install, prune, text, uninstall

__all__ = ["RETENTION", "Call", "completion_call", "install", "prune", "submission_call", "text", "uninstall"]
