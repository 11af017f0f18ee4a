"""The former name of ``ConnectionState``, for the adapter that still uses it."""

from __future__ import annotations

from ffcompletion.delivery.connection_state import ConnectionState as Link

__all__ = ["Link"]
