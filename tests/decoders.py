"""Every decoder of what others wrote, fed with the same bytes: total, and per item. For the fuzzer, Hypothesis and the corpus."""

from __future__ import annotations

import struct
from collections.abc import Coroutine, Sequence
from typing import Any

import ffcompletion as ffc
from ffcompletion.backends.postgres import facts, rows, silent, snapshots
from ffcompletion.backends.postgres.announced import Announced
from ffcompletion.backends.postgres.rows import Row
from ffcompletion.backends.valkey import snapshots as valkey_snapshots
from ffcompletion.backends.valkey.index import TerminalIndex
from ffcompletion.backends.valkey.lookups import Lookups
from ffcompletion.backends.valkey.reconciliation import Candidate
from ffcompletion.backends.valkey.replies import milliseconds, partition_count, text_of
from ffcompletion.backends.valkey.wire import decode, decode_batch
from ffcompletion.delivery.hub import Group, Selector

ID = ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")
SOUND = (
    b'{"flow_id":"a76a8496-6e9c-457a-8727-b5169796f3cd","outcome":"success",'
    b'"execution_id":"{fp:7}:550e8400-e29b-41d4-a716-446655440000"}'
)
FILTERS = (ffc.ScannerFilter("a"), ffc.ScannerFilter("a", ("k", "v")), ffc.ScannerFilter(None, ("k", "v")))


def _done(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine comes to that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def announcements(data: bytes) -> None:
    """On Valkey: none or one, and those beside it are read."""
    payload = decode(data)
    if payload is not None:
        assert 0 <= payload.execution_id.partition <= 0xFFFF
        assert payload.execution_id.uuid is not None
    # A few are read another way than many.
    for beside in (1, 4):
        batch = decode_batch([*[SOUND] * beside, data, SOUND])
        assert len(batch) == beside + 1 + (payload is not None)
        assert batch[0].execution_id == batch[-1].execution_id == ID


def notifications(text: str) -> None:
    """On Postgres: an id, or a reason to look; never anything kept that grows."""
    heard = Announced()
    heard.add(text)
    heard.add("7")
    hints = heard.take()
    assert 7 in hints.ids
    assert hints.look or len(hints.ids) <= 2
    assert all(0 < id_ < 1 << 63 for id_ in hints.ids)


def cursors(data: bytes, text: str) -> None:
    """Read as they were written, or refused."""
    try:
        assert ffc.StreamCursor.from_bytes(data).to_bytes() == data
    except ffc.Validation:
        pass
    try:
        ffc.StreamCursor.from_text(text).to_text()
    except ffc.Validation:
        pass


def outbox_rows(text: str, number: int) -> None:
    """Rows as the driver hands them over: whatever a text or a number is, the rows beside it are read and decided."""
    sound: Row = (1, str(ID), "success", 1, None, "a")
    last: Row = (number + 3, str(ID), "success", 1, None, "a")
    for row in (
        (number + 2, str(ID), text, number, None, text),
        (number + 2, str(ID), "success", None, None, None),
        (number + 2, None, text, number, None, text),
        (number + 2, str(ID), None, -number, None, text),
    ):
        batch = rows.decode([sound, row, last], number)
        assert batch.payloads[0].outcome == batch.payloads[-1].outcome == "success"
        assert len(batch.payloads) + batch.malformed + (row[1] is not None and row[2] == "resumable") == 3
        records = {str(ID): facts.Record(text or None, text, number)}
        known = facts.facts_of(batch.rows, records, {str(ID)})
        for wanted in FILTERS:
            for results in (False, True):
                Group(Selector(wanted, results)).select(batch.payloads, known)


def records(text: str, number: int) -> None:
    """Tags, ends without a row, described states."""
    found = rows.tags_of(text)
    assert found is None or {type(item) for pair in found.items() for item in pair} <= {str}
    end = silent.end_of((7, str(ID.uuid), text, text, number, number, None, text, text, text, True, 1), readable=True)
    silent.facts_of(end)
    assert silent.payload_of(end).execution_id == ID
    snapshot = snapshots._snapshot(
        ID, (1, True, text, None, text, text, text, text, text, number, text, number, text.encode("utf-8", "replace"))
    )
    assert snapshot is not None
    assert snapshot.execution_id == ID


def replies(data: bytes) -> None:
    """Valkey's: single values, records, tags, results, index entries and their scores."""
    text = text_of(data)
    assert text is None or text.encode() == data
    assert 0 <= milliseconds(text) < 1 << 63
    assert 1 <= partition_count(data) <= 65_535
    score = struct.unpack("<d", data[:8].ljust(8, b"\0"))[0]

    async def execute(commands: Sequence[Sequence[str]]) -> Sequence[object]:
        return [_reply(command, data, score) for command in commands]

    (described,) = _done(valkey_snapshots.describe(execute, [ID], result=True))
    assert described is None or described.execution_id == ID
    _done(valkey_snapshots.members(execute, ffc.FlowId("550e8400-e29b-41d4-a716-446655440000")))
    payloads = [ffc.CompletionPayload(ID, "success")]
    lookups = Lookups(execute)
    known = _done(lookups.facts(payloads, list(FILTERS)))
    for wanted in FILTERS:
        Group(Selector(wanted)).select(payloads, known)
    assert len(_done(lookups.results(payloads))) == 1
    index = TerminalIndex(execute, [])
    _done(index.look())
    page = _done(index.page(0, 1 << 53))
    # Beside it in every key: an entry of the engine's.
    assert page.entries.count((str(ID), 1_700_000_000_000)) == index.key_count
    found, _ = _done(index.payloads([Candidate(name, at) for name, at in page.entries[:4]]))
    assert all(payload.execution_id.partition <= 0xFFFF for payload in found)


def _reply(command: Sequence[str], data: bytes, score: float) -> object:
    match command[0]:
        case "TIME":
            return [b"1700000000", b"0"]
        case "HMGET":
            return [data] * (len(command) - 2)
        case "HGETALL":
            return {data: data, b"k": data}
        case "SSCAN":
            return [b"0", [data, str(ID).encode()]]
        case "ZRANGE":
            return {data: score, str(ID).encode(): 1_700_000_000_000.0}
        case _:
            return data


def everything(data: bytes) -> None:
    """All of them. Raises nothing but what is a defect."""
    number = int.from_bytes(data[:7], "little")
    announcements(data)
    replies(data)
    for text in {data.decode("utf-8", "replace"), data.decode("latin-1")}:
        notifications(text)
        cursors(data, text)
        # What a database can hold.
        kept = text.replace("\0", "")
        outbox_rows(kept, number)
        records(kept, number)
        records('{"k": ' + kept + "}", number)
