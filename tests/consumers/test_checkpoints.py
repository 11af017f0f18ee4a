"""Positions in a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.memory import MemoryBackend
from tests.consumers.keeping import CHECKPOINT, ID


async def test_the_file(tmp_path: Path) -> None:
    """Round trip, one line, private, nothing else in the directory; a link is followed."""
    path, link = tmp_path / "real" / "c", tmp_path / "link"
    path.parent.mkdir()
    link.symlink_to(path)
    store = ffc.FileCheckpoints(link)
    assert await store.load("a") is None
    await store.save("a", CHECKPOINT)
    assert await store.load("a") == CHECKPOINT
    assert link.is_symlink()
    assert path.read_text().count("\n") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["c"]


async def test_a_torn_file_is_refused_and_left(tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed."""
    path = tmp_path / "c"
    store = ffc.FileCheckpoints(path)
    await store.save("a", CHECKPOINT)
    whole = path.read_bytes()
    torn = [whole[:length] for length in range(len(whole) - 1)]
    torn += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole) - 1)]
    for data in torn:
        path.write_bytes(data)
        with pytest.raises(ffc.Validation, match=r"checkpoint: .*(damaged|belongs)"):
            await store.load("a")
        assert path.read_bytes() == data


async def test_a_file_of_the_far_future_is_read(tmp_path: Path) -> None:
    """Whoever may touch it may give it a time that no date has."""
    path = tmp_path / "cp"
    store = ffc.FileCheckpoints(path)
    await store.save("me", CHECKPOINT)
    os.utime(path, (2**38, 2**38))
    assert await store.load("me") == CHECKPOINT


async def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """Our error, the system's as its cause; the former content stays, and no rubbish."""
    store = ffc.FileCheckpoints(tmp_path / "nowhere" / "c")
    with pytest.raises(ffc.Unavailable, match="No such file") as caught:
        await store.save("a", CHECKPOINT)
    assert isinstance(caught.value.__cause__, OSError)
    (tmp_path / "d").mkdir()
    with pytest.raises(ffc.Unavailable):
        await ffc.FileCheckpoints(tmp_path / "d").save("a", CHECKPOINT)
    assert [item.name for item in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize(
    ("selection", "options"),
    [
        ("", {}),
        ("namespace='ä' tag=('k', \"v'\")", {"filter": ffc.ScannerFilter("ä", ("k", "v'"))}),
        ("partitions=range(0, 3)", {"partitions": range(3)}),
        ("namespace='x' partitions=[1, 5]", {"filter": ffc.ScannerFilter("x"), "partitions": {5, 1}}),
    ],
)
async def test_positions_of_earlier_versions_are_read(
    store: ffc.FileCheckpoints, selection: str, options: dict[str, Any]
) -> None:
    """Which named the backend's class, and wrote filters as Python shows them."""
    async with MemoryBackend() as backend:
        first = backend.emit(ID % 1)
        assert first.cursor is not None
        await store.save("a", ffc.Checkpoint(cursor=first.cursor, backend="MemoryBackend", selection=selection))
        async with ffc.checkpointed(backend, store, "a", **options):
            pass
        with pytest.raises(ffc.Validation, match="stored for"):
            async with ffc.checkpointed(backend, store, "a", ffc.ScannerFilter("another")):
                pass
