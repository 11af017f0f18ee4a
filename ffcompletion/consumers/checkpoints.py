"""``FileCheckpoints``: where a consumer stands, in a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Final, final

import msgspec

from ffcompletion.contract.checkpoint import Checkpoint
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable, Validation

__all__ = ["FileCheckpoints"]


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's one line of JSON; ``crc32`` is of the other fields, NUL between them."""

    name: str
    backend: str
    selection: str
    cursor: str
    crc32: int


@final
class FileCheckpoints:
    """One checkpoint in one file: a line of JSON, replaced atomically and synced to disk before ``save`` returns.

    A file that is torn, or was written for another name, is refused with ``Validation`` and left as it is. A file
    that cannot be read or written raises ``Unavailable``. The directory must exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # A link is followed, not replaced.
        self._path: Final = Path(os.path.realpath(path))
        self._turn = threading.Lock()

    async def load(self, name: str, /) -> Checkpoint | None:
        """The file's checkpoint; None if there is no file. Raises ``Validation`` and ``Unavailable``."""
        try:
            data = await asyncio.to_thread(self._path.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise Unavailable("the checkpoint file", f"{self._path}: {exc.strerror}") from exc
        try:
            line = msgspec.json.decode(data, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._damaged() from exc
        if line.crc32 != _crc32(line.name, line.backend, line.selection, line.cursor):
            raise self._damaged()
        if line.name != name:
            raise Validation("checkpoint", f"{self._path} belongs to {line.name!r}, not to {name!r}")
        return Checkpoint(cursor=StreamCursor.from_text(line.cursor), backend=line.backend, selection=line.selection)

    async def save(self, name: str, checkpoint: Checkpoint, /) -> None:
        """Replace the file. Raises ``Unavailable``, and then the former content stays."""
        fields = (name, checkpoint.backend, checkpoint.selection, checkpoint.cursor.to_text())
        data = msgspec.json.encode(_Line(*fields, crc32=_crc32(*fields))) + b"\n"
        try:
            await asyncio.to_thread(self._replace, data)
        except OSError as exc:
            raise Unavailable("the checkpoint file", f"{self._path}: {exc.strerror}") from exc

    def _replace(self, data: bytes) -> None:
        folder = self._path.parent
        with self._turn:
            handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
            # The new name is on disk only when the directory is.
            directory = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _damaged(self) -> Validation:
        return Validation(
            "checkpoint", f"{self._path} is damaged; restore it, or remove it to begin where `start` says"
        )


def _crc32(*fields: str) -> int:
    return zlib.crc32("\0".join(fields).encode())
