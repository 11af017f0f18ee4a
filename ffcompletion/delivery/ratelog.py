"""Say it, but not a thousand times a second."""

from __future__ import annotations

from ffcompletion.foreign.logs import RateLog

__all__ = ["RateLog"]
