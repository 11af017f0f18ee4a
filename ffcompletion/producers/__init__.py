"""The announcing side, for programs that have no FlowFabric: SQL and Lua that run inside the server.

There is no publish method in Python, on purpose: announcing belongs inside the transaction that finishes the work.
"""

from ffcompletion.producers.installing import install, text

__all__ = ["install", "text"]
