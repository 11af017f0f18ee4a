"""Hypothesis strategies for everything that a backend or a filter is given. Needs hypothesis.

::

    from ffcompletion.testing import strategies as ffst


    @given(ffst.filters(), ffst.executions())
    def test_my_backend_decides_as_the_filter_does(wanted, execution): ...
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, get_args

from ffcompletion.contract.cursor import StreamCursor
from ffcompletion.contract.errors import Unavailable
from ffcompletion.contract.filter import ScannerFilter
from ffcompletion.contract.ids import ExecutionId, FlowId
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.testing.hostile import Conduct, HostileFilter
from ffcompletion.testing.subject import Execution

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ImportError:
    raise Unavailable(
        "ffcompletion.testing.strategies", "hypothesis is not installed; pip install hypothesis"
    ) from None

__all__ = [
    "broken_bytes",
    "broken_json",
    "cursors",
    "execution_ids",
    "executions",
    "filters",
    "flow_ids",
    "hostile_filters",
    "namespaces",
    "outrageous_executions",
    "payloads",
    "tags",
    "wire_messages",
]

# What a database can hold as text.
_STORABLE: Final = st.characters(codec="utf-8", exclude_characters="\0")
_MONSTERS: Final = (
    "[" * 900 + "]" * 900,
    '{"k": ' * 900 + "1" + "}" * 900,
    "9" * 5_000,
    "-" + "9" * 400 + "." + "9" * 400,
    "1e300",
    '"' + "x" * 10_000 + '"',
    "[[], {}, null]",
    '{"k": {"v": 1}}',
    "1.10",
    "true",
    "null",
)
OUTCOMES: Final = ("success", "failed", "cancelled", "expired", "skipped")


def flow_ids() -> SearchStrategy[FlowId]:
    """Flow ids in each of the four spellings that the engine accepts."""
    return st.tuples(st.uuids(), st.sampled_from(("{0}", "{1}", "{{{0}}}", "urn:uuid:{0}")), st.booleans()).map(
        _flow_id
    )


def _flow_id(parts: tuple[object, str, bool]) -> FlowId:
    uuid, spelling, upper = parts
    text = str(uuid).upper() if upper else str(uuid)
    return FlowId(spelling.format(text, text.replace("-", "")))


def execution_ids(partitions: SearchStrategy[int] | None = None) -> SearchStrategy[ExecutionId]:
    """Execution ids: any partition from 0 to 65535, also written ``+7`` and ``007``, and any spelling of the UUID."""
    numbers = st.integers(0, 0xFFFF) if partitions is None else partitions
    return st.builds(_execution_id, st.sampled_from(("", "+", "0", "+00")), numbers, flow_ids())


def _execution_id(prefix: str, number: int, uuid: str) -> ExecutionId:
    return ExecutionId(f"{{fp:{prefix}{number}}}:{uuid}")


def namespaces() -> SearchStrategy[str]:
    """Tenants' names: few enough to meet, odd enough to matter. No NUL, which Postgres cannot store."""
    few = st.sampled_from(("a", "b", "A", "a ", "tenant-a", "a:b", "ä", "\u200b"))
    return few | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


def tags() -> SearchStrategy[Mapping[str, str]]:
    """Up to three tags; keys and values that can be mistaken for each other."""
    words = st.sampled_from(("k", "a=b", "b=c", "cairn.instance_id", "v", "")) | namespaces()
    return st.dictionaries(words.filter(bool), words, max_size=3)


def filters() -> SearchStrategy[ScannerFilter]:
    """Filters by namespace, tag, both or neither."""
    pairs = st.tuples(st.sampled_from(("k", "a=b", "cairn.instance_id")) | namespaces(), namespaces())
    return st.builds(ScannerFilter, st.none() | namespaces(), st.none() | pairs)


def hostile_filters() -> SearchStrategy[HostileFilter]:
    """Filters of somebody's own that raise, lie, change, take their time, are equal to everything or have no hash.

    Open some beside the streams of a backend of yours: everybody else still gets exactly its own.
    """
    conducts: SearchStrategy[Conduct] = st.sampled_from(get_args(Conduct))
    return st.builds(
        HostileFilter,
        st.lists(conducts, min_size=1, max_size=8),
        tag_keys=st.lists(st.sampled_from((None, "k", "a=b", "ä")), min_size=1, max_size=3),
        hashable=st.booleans(),
    )


def executions() -> SearchStrategy[Execution]:
    """Executions that are to finish."""
    return st.builds(
        Execution,
        execution_id=execution_ids(st.integers(0, 255)),
        outcome=st.sampled_from(OUTCOMES),
        flow_id=flow_ids(),
        namespace=st.none() | namespaces(),
        tags=tags(),
    )


def broken_json() -> SearchStrategy[str]:
    """JSON where somebody should have written a short text: nested, of wrong types, numbers beyond all bounds.

    For the records of a backend of yours that are kept as JSON: what stands beside one of these has to be delivered.
    """
    scalars = st.none() | st.booleans() | st.integers() | st.text(_STORABLE, max_size=8)
    documents = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(_STORABLE, max_size=3), inner, max_size=3),
    )
    return documents.map(json.dumps) | st.sampled_from(_MONSTERS)


def broken_bytes() -> SearchStrategy[bytes]:
    """Bytes where somebody should have written a short text: no UTF-8, long, digits without end, JSON, nothing."""
    return st.binary(max_size=20) | st.sampled_from([text.encode() for text in _MONSTERS] + [b"\xff", b"\xc3\x28", b""])


def outrageous_executions() -> SearchStrategy[Execution]:
    """Executions that may be announced, and that nobody expects: names, outcomes and values of 10,000 characters, tags by
    the hundred, a megabyte for a result. Never of the namespace ``victim``.
    """
    long = st.sampled_from(("x" * 10_000, "[" * 10_000, "9" * 10_000, "\u2028" * 3_000, "\U0001f600" * 3_000))
    words = long | namespaces()
    crowd = st.integers(0, 300).map(lambda count: {f"k{number}": "v" for number in range(count)})
    return st.builds(
        Execution,
        execution_id=execution_ids(st.integers(0, 255)),
        outcome=st.sampled_from(OUTCOMES) | long,
        flow_id=flow_ids(),
        namespace=st.none() | words.filter(lambda name: name != "victim"),
        tags=crowd | st.dictionaries(words, words, max_size=3),
        result=st.none() | st.sampled_from((b"", b"\xff" * 1_000_000)),
    )


def cursors() -> SearchStrategy[StreamCursor]:
    """Cursors of every layout."""
    unsigned = st.integers(0, (1 << 64) - 1)
    return (
        st.just(StreamCursor.empty())
        | st.integers(0, (1 << 63) - 1).map(StreamCursor.outbox)
        | st.builds(StreamCursor.stream, unsigned, unsigned)
    )


def payloads() -> SearchStrategy[CompletionPayload]:
    """What a stream yields."""
    return st.builds(
        CompletionPayload,
        execution_ids(),
        st.sampled_from((*OUTCOMES, "failure", "")) | st.text(max_size=10),
        st.none() | st.binary(max_size=20),
        st.integers(0, 1 << 48),
        st.none() | flow_ids(),
        st.none() | cursors(),
    )


def wire_messages(*, poison: bool = True) -> SearchStrategy[bytes]:
    """Announcements as Valkey carries them; with ``poison`` also what is none, or is one that was damaged."""
    sound = st.builds(_message, execution_ids(), flow_ids(), st.sampled_from(OUTCOMES), st.booleans(), st.booleans())
    if not poison:
        return sound
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    names = st.sampled_from(("execution_id", "flow_id", "outcome", "x"))
    wrong = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(names, inner)).map(_encoded)
    damaged = st.builds(_damaged, sound, st.binary(max_size=20), st.integers(0, 250), st.integers(0, 20))
    openers = st.sampled_from((b"[", b'{"x":', b'{"execution_id":'))
    nested = st.tuples(openers, st.integers(0, 6000)).map(_nested)
    long = st.integers(16_000, 60_000).map(_long)
    return sound | wrong | damaged | nested | long | st.binary(max_size=300)


def _message(execution_id: str, flow_id: str, outcome: str, outcome_there: bool, more: bool) -> bytes:
    members: dict[str, object] = {"flow_id": str(flow_id), "execution_id": str(execution_id)}
    if outcome_there:
        members["outcome"] = outcome
    if more:
        members["later"] = [{"version": 2}]
    # As the engine's cjson writes it: `/` is escaped.
    return json.dumps(members, separators=(",", ":")).replace("/", "\\/").encode()


def _nested(parts: tuple[bytes, int]) -> bytes:
    opener, depth = parts
    return opener * depth


def _long(size: int) -> bytes:
    return _message("x" * size, "y", "success", True, False)


def _encoded(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _damaged(message: bytes, noise: bytes, at: int, less: int) -> bytes:
    return message[:at] + noise + message[at + less :]
