"""Completions within one process."""

from ffcompletion.backends.memory.backend import MemoryBackend

__all__ = ["MemoryBackend"]
