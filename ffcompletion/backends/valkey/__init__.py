"""The Valkey adapter: push for speed.

An announcement's way: ``connection`` (SUBSCRIBE) → ``live`` (one inbox) → ``wire`` → ``gate`` → hub → stream.
"""

from ffcompletion.backends.valkey.backend import ValkeyBackend

__all__ = ["ValkeyBackend"]
