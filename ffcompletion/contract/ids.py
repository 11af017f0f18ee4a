"""Ids of executions and flows, read exactly as the engine reads them.

The engine parses with Rust's ``u16::from_str`` and the ``uuid`` crate; Python's ``int()`` and ``uuid.UUID()`` accept
more (underscores, spaces, other digits, other hyphens), so the grammar is spelled out here. The original text is
kept and compared as text: two spellings of one UUID are two different ids, as they are on the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NewType, Self, final

from typing_extensions import override

from ffcompletion.contract.errors import Validation

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["ExecutionId", "FlowId", "Namespace"]

Namespace = NewType("Namespace", str)
"""A tenant's name: any string, compared exactly."""

HYPHENATED_UUID: Final = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_UUID: Final = rf"(?:{HYPHENATED_UUID}|[0-9a-fA-F]{{32}}|\{{{HYPHENATED_UUID}\}}|urn:uuid:{HYPHENATED_UUID})"
_FLOW_ID: Final = re.compile(_UUID)
_EXECUTION_ID: Final = re.compile(rf"\{{fp:\+?([0-9]+)\}}:({_UUID})")
_MAX_PARTITION: Final = 0xFFFF
PARTITIONS: Final = 256
"""How many partitions the engine runs unless told otherwise, and ids are minted for."""
_SHOWN: Final = 80


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def is_execution_id(text: str) -> bool:
    """Whether ``text`` is ``{fp:N}:<uuid>`` by the engine's own grammar. Total: never raises on any ``str``."""
    found = _EXECUTION_ID.fullmatch(text)
    if found is None:
        return False
    digits = found[1]
    # Up to four digits cannot exceed 65535; a run of zeros may make the text longer than int() likes to read.
    return len(digits) < 5 or (len(digits := digits.lstrip("0")) < 6 and int(digits or "0") <= _MAX_PARTITION)


def is_flow_id(text: str) -> bool:
    """Whether ``text`` is a UUID in one of the four spellings that the engine accepts."""
    return _FLOW_ID.fullmatch(text) is not None


def _uuid(text: str) -> UUID:
    from uuid import UUID  # noqa: PLC0415  # asks the platform module about the machine when imported

    return UUID(text)


@final
class ExecutionId(str):
    """An execution's id, ``{fp:N}:<uuid>``: a ``str`` that has been checked.

    ``N`` is the partition, an unsigned 16-bit integer; it is read from the text, never computed, and not compared
    with a partition count. Raises ``Validation`` for anything else.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise Validation("execution id", f"expected str, got {type(text).__name__}")
        if not is_execution_id(text):
            raise Validation("execution id", f"{_shown(text)} is not {{fp:N}}:<uuid> with N from 0 to 65535")
        return str.__new__(cls, text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The same as calling the class: check ``text`` and keep it as it is. Raises ``Validation``."""
        return cls(text)

    @classmethod
    def new(cls, flow_id: str | None = None) -> Self:
        """A new id with a random UUID, for executions that our own producers announce.

        ``N`` spreads them over the engine's 256 partitions; with a flow it is that flow's, so that its members lie
        together, which Valkey needs. Raises ``Validation`` for a malformed flow.
        """
        from uuid import uuid4  # noqa: PLC0415  # as above

        made = uuid4()
        partition = made.bytes[-1] if flow_id is None else flow_partition(FlowId(flow_id), PARTITIONS)
        return cls(f"{{fp:{partition}}}:{made}")

    @property
    @override
    def partition(self) -> int:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # the engine's word; str.partition makes no sense on an id
        """``N``, from 0 to 65535."""
        return int(self[4 : self.index("}:")].removeprefix("+").lstrip("0") or "0")

    @property
    def uuid(self) -> UUID:
        """The UUID part."""
        return _uuid(self[self.index("}:") + 2 :])


@final
class FlowId(str):
    """A flow's id: a UUID kept as the text it was written in. Raises ``Validation`` for anything else."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise Validation("flow id", f"expected str, got {type(text).__name__}")
        if not is_flow_id(text):
            raise Validation("flow id", f"{_shown(text)} is not a UUID")
        return str.__new__(cls, text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The same as calling the class: check ``text`` and keep it as it is. Raises ``Validation``."""
        return cls(text)

    @property
    def uuid(self) -> UUID:
        """The UUID."""
        return _uuid(self)


def flow_partition(flow_id: FlowId, partitions: int) -> int:
    """The partition that a flow and its members are minted into: CRC16/XMODEM over the UUID's bytes, modulo."""
    from binascii import crc_hqx  # noqa: PLC0415  # with uuid, for the few who ask

    return crc_hqx(flow_id.uuid.bytes, 0) % partitions


# For adapters, on text that the wire's own grammar has already been held against: the checks cost more than the rest
# of a payload does, and a function of our own around ``str.__new__`` as much as the call itself.
trusted_execution_id: Final[Callable[[str], ExecutionId]] = partial(str.__new__, ExecutionId)
"""The text as an ``ExecutionId`` without checking it again."""
trusted_flow_id: Final[Callable[[str], FlowId]] = partial(str.__new__, FlowId)
"""The text as a ``FlowId`` without checking it again."""
