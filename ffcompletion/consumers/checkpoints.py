"""``FileCheckpoints``: where a consumer stands, in a file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import tempfile
import threading
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import msgspec

from ffcompletion.contract.checkpoint import Checkpoint, LeasingStore, StoredCheckpoint
from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable, Validation
from ffcompletion.contract.loops import running_loop
from ffcompletion.contract.text import check_text

__all__ = ["FileCheckpoints"]


# A name and a filter as long as they like, and still nothing that is worth reading if it is longer.
_LONGEST: Final = 1 << 20
# Seconds between looks at a lock that another holds.
_LEASE_S: Final = 0.2
# The year 9999.
_LATEST_S: Final = 253_402_214_400.0
_NO_FILE: Final = "it is no regular file"


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
    that cannot be read or written, or is none (a device, a pipe), raises ``Unavailable``. A file that is replaced keeps
    its mode and its owner; a new one is private. The directory must exist.

    Raises ``Validation`` for a path that no file can have.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            # A link is followed, not replaced.
            self._path: Final = Path(os.path.realpath(path))
            # For messages: a name may hold bytes that are no text.
            self._shown: Final = os.fsencode(self._path).decode("utf-8", "replace")
        except (ValueError, OSError) as exc:
            raise Validation("checkpoint", f"{path!r} cannot be the name of a file") from exc
        self._turn = threading.Lock()
        self._lease: int | None = None

    async def acquire(self, name: str, /, *, wait: bool) -> None:
        """Lock ``<path>.lock``, which stays there: whoever removes it lets a second one in. The system unlocks it when the
        process ends, however it does (and what it has forked meanwhile, which has the file open, too).

        Where another holds it, in this process too: wait, or raise ``Unavailable``. On a network's file system a lock
        is as good as that is.
        """
        running_loop("lease a checkpoint")
        try:
            # Beside the file, which is replaced by every save.
            handle = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise self._refused(exc) from exc
        try:
            while not _locked(handle):
                if not wait:
                    raise self._leased(name)
                await asyncio.sleep(_LEASE_S)
        except BaseException:
            os.close(handle)
            raise
        self._lease = handle

    async def release(self, name: str, /) -> None:  # noqa: ARG002  # the Protocol's; a file has one name
        """Unlock it. Idempotent."""
        handle, self._lease = self._lease, None
        if handle is not None:
            os.close(handle)

    def _leased(self, name: str) -> Unavailable:
        return Unavailable("lease", f"another consumer runs {name!r} with {self._shown}")

    async def load(self, name: str, /) -> Checkpoint | None:
        """The file's checkpoint; None if there is no file. Raises ``Validation`` and ``Unavailable``."""
        running_loop("load a checkpoint")
        found = await self.stored()
        if not found:
            return None
        if found[0].name != name:
            raise Validation("checkpoint", f"{self._shown} belongs to {found[0].name!r}, not to {name!r}")
        return found[0].checkpoint

    async def stored(self) -> Sequence[StoredCheckpoint]:
        """The one that the file holds, whatever its name; none if there is no file. Raises as ``load`` does."""
        try:
            data, saved_s = await asyncio.to_thread(self._read)
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise self._refused(exc) from exc
        try:
            line = msgspec.json.decode(data, type=_Line)
            sound = line.crc32 == _crc32(line.name, line.backend, line.selection, line.cursor)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise self._damaged() from exc
        if not sound:
            raise self._damaged()
        position = Checkpoint(
            cursor=StreamCursor.from_text(line.cursor), backend=line.backend, selection=line.selection
        )
        # Whoever may touch the file may give it any time.
        at = datetime.fromtimestamp(min(max(saved_s, 0.0), _LATEST_S), UTC)
        return (StoredCheckpoint(name=line.name, checkpoint=position, saved_at=at),)

    async def remove(self) -> bool:
        """Remove the file, also a damaged one: its consumer begins where ``start`` says. False if there is none.

        Raises ``Unavailable`` where it cannot be removed, and where a consumer has leased it.
        """
        leased = await asyncio.to_thread(os.path.exists, f"{self._path}.lock")
        if leased:
            await self.acquire(self._shown, wait=False)
        try:
            await asyncio.to_thread(self._unlink)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise self._refused(exc) from exc
        finally:
            if leased:
                await self.release(self._shown)
        return True

    def _unlink(self) -> None:
        with self._turn:
            self._former()
            self._path.unlink()

    async def save(self, name: str, checkpoint: Checkpoint, /) -> None:
        """Replace the file. Raises ``Unavailable``, and then the former content stays."""
        running_loop("save a checkpoint")
        fields = (
            check_text("checkpoint", "the name", name),
            check_text("checkpoint", "the backend", checkpoint.backend),
            check_text("checkpoint", "the selection", checkpoint.selection),
            checkpoint.cursor.to_text(),
        )
        data = msgspec.json.encode(_Line(*fields, crc32=_crc32(*fields))) + b"\n"
        try:
            await asyncio.to_thread(self._replace, data)
        except OSError as exc:
            raise self._refused(exc) from exc

    def _read(self) -> tuple[bytes, float]:
        # Looked at before it is opened, because opening a pipe waits and opening a device may do something.
        self._former()
        # And not waited for, should it have become one since.
        handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, _NO_FILE)
            return file.read(_LONGEST), os.fstat(handle).st_mtime

    def _former(self) -> os.stat_result:
        found = self._path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, _NO_FILE)
        return found

    def _replace(self, data: bytes) -> None:
        folder = self._path.parent
        with self._turn:
            try:
                former = self._former()
            except FileNotFoundError:
                former = None
            # A name of its own, because with this one's the longest allowed would be too long.
            handle, name = tempfile.mkstemp(prefix=".ffcompletion-", dir=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    if former is not None:
                        _keep(handle, former)
                    os.fsync(handle)
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

    def _refused(self, exc: OSError) -> Unavailable:
        return Unavailable("the checkpoint file", f"{self._shown}: {exc.strerror}")

    def _damaged(self) -> Validation:
        return Validation(
            "checkpoint", f"{self._shown} is damaged; restore it, or remove it to begin where `start` says"
        )


def _locked(handle: int) -> bool:
    import fcntl  # noqa: PLC0415  # POSIX only, as leases of files are

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _keep(handle: int, former: os.stat_result) -> None:
    """Owner and mode of the file that is replaced. Raises ``OSError`` where the owner cannot be kept."""
    made = os.fstat(handle)
    if (made.st_uid, made.st_gid) != (former.st_uid, former.st_gid):
        try:
            os.fchown(handle, former.st_uid, former.st_gid)
        except PermissionError as exc:
            owner = f"{former.st_uid}:{former.st_gid}"
            raise OSError(exc.errno, f"it belongs to {owner}, which this process cannot give a new file to") from exc
    # After the owner, whose change takes bits away.
    os.fchmod(handle, stat.S_IMODE(former.st_mode))


def _crc32(*fields: str) -> int:
    return zlib.crc32("\0".join(fields).encode())


if TYPE_CHECKING:
    _: type[LeasingStore] = FileCheckpoints
