"""Completions within one process."""

from ffcompletion.backends.memory.backend import MemoryBackend
from ffcompletion.backends.memory.faults import Faults

__all__ = ["Faults", "MemoryBackend"]
