"""The Valkey adapter: push for speed.

An announcement's way: ``session`` → ``inbox`` → ``supervisor`` (decoded by ``wire``) → ``filtering`` → hub → ``source``.
"""

from ffcompletion.backends.valkey.backend import ValkeyBackend

__all__ = ["ValkeyBackend"]
