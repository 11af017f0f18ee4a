"""What is read of rows and records, in SQL: texts bounded by the server, so that a large one costs nobody's memory.

What is too large is as good as what cannot be read: a row makes no completion, a record leaves its execution undecided.
"""

from __future__ import annotations

from typing import Final, LiteralString

__all__ = [
    "RAW_RECORD",
    "RAW_RESULT",
    "RAW_ROW",
    "READABLE",
    "READ_RECORD",
    "READ_RESULT",
    "RECORD",
    "RESULT",
    "ROW",
    "WHOLE",
]

# A namespace may have 4,096 bytes, an outcome 256, the JSON text of an execution's tags 16,384; the engine's have some ten,
# ten, and a hundred.
# The server can tell how large these are without reading them.
_OUTCOME: Final[LiteralString] = (
    "CASE WHEN octet_length(e.outcome) <= 256 AND coalesce(octet_length(e.namespace) <= 4096, true) THEN"
)
_NAMESPACE: Final[LiteralString] = "CASE WHEN octet_length(e.namespace) <= 4096 THEN"
# The server formats ids: a text column decodes in C, and a negative partition (no valid id) becomes NULL.
_ID: Final[LiteralString] = (
    "CASE WHEN e.partition_key >= 0 THEN '{{fp:' || e.partition_key || '}}:' || e.execution_id END"
)
ROW: Final[LiteralString] = (
    "e.event_id, " + _ID + ", " + _OUTCOME + " e.outcome END, e.occurred_at_ms, e.flow_id::text,"
    " " + _NAMESPACE + " e.namespace END"
)
"""Of the outbox, ``e``."""
RAW_ROW: Final[LiteralString] = (
    "e.event_id, " + _ID + ", " + _OUTCOME + " convert_to(e.outcome, getdatabaseencoding()) END,"
    " e.occurred_at_ms, e.flow_id::text, " + _NAMESPACE + " convert_to(e.namespace, getdatabaseencoding()) END"
)
"""The same with texts as they are stored, byte for byte, for rows that the server cannot render in UTF8."""

# Reading a field takes the whole record out of its storage, so a very large one is not looked into: stored as it is, or
# compressed, where it may come to a hundred times as much.
WHOLE: Final[LiteralString] = (
    "pg_column_size(c.raw_fields) <= CASE WHEN pg_column_compression(c.raw_fields) IS NULL THEN 8388608 ELSE 524288 END"
)
"""Whether the server looks into the record ``c``."""
_LOOKED_INTO: Final[LiteralString] = "coalesce(" + WHOLE + ", true) AS whole"
RECORD: Final[LiteralString] = (
    "CASE WHEN " + WHOLE + " THEN c.raw_fields->>'namespace' END AS namespace,"
    " CASE WHEN " + WHOLE + " THEN (c.raw_fields->'tags')::text END AS tags, octet_length(c.result) AS size, "
    + _LOOKED_INTO
)  # fmt: skip
"""What a record ``c`` says, to be read by ``READ_RECORD``: namespace, tags as text, and how large the result is."""
RAW_RECORD: Final[LiteralString] = (
    "CASE WHEN " + WHOLE + " THEN convert_to(c.raw_fields->>'namespace', getdatabaseencoding()) END AS namespace,"
    " CASE WHEN " + WHOLE + " THEN convert_to((c.raw_fields->'tags')::text, getdatabaseencoding()) END AS tags,"
    " octet_length(c.result) AS size, " + _LOOKED_INTO
)
RESULT: Final[LiteralString] = (
    "CASE WHEN " + WHOLE + " THEN c.raw_fields->>'namespace' END AS namespace, c.result AS result, " + _LOOKED_INTO
)
"""A record's result, and whose it is; to be read by ``READ_RESULT``."""
RAW_RESULT: Final[LiteralString] = (
    "CASE WHEN " + WHOLE + " THEN convert_to(c.raw_fields->>'namespace', getdatabaseencoding()) END AS namespace,"
    " c.result AS result, " + _LOOKED_INTO
)
_READ_NAMESPACE: Final[LiteralString] = "CASE WHEN octet_length(c.namespace) <= 4096 THEN c.namespace END"
# No JSON where there is too much of it: so nothing is known of any tag.
READ_RECORD: Final[LiteralString] = (
    _READ_NAMESPACE + ", CASE WHEN octet_length(c.tags) > 16384 THEN '{{' ELSE c.tags END, c.size"
)
"""Namespace, tags and size, of a subquery ``c`` that selects ``RECORD``."""
READ_RESULT: Final[LiteralString] = _READ_NAMESPACE + ", c.result"
READABLE: Final[LiteralString] = "c.whole AND coalesce(octet_length(c.namespace) <= 4096, true)"
"""Whether they are all there is to know."""
