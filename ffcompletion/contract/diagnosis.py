"""What an examination of a server finds: a verdict a check, in words, with what to do about it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final, final

import msgspec

__all__ = ["Finding", "Verdict", "about_clocks", "about_no_encryption", "exit_status"]

_SKEW_S: Final = 2.0


class Verdict(StrEnum):
    """How grave a finding is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing has to be done."""
    WARNING = "warning"
    """It works, and less well than it could, or not for long."""
    FAILURE = "failure"
    """It will not work."""


@final
class Finding(msgspec.Struct, frozen=True):
    """What one check found."""

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""
    """A command that can be pasted, or what to do in words; empty where there is nothing to do."""


def exit_status(findings: Sequence[Finding]) -> int:
    """0: all is well, 1: there are warnings, 2: it will not work."""
    verdicts = {finding.verdict for finding in findings}
    return 2 if Verdict.FAILURE in verdicts else 1 if Verdict.WARNING in verdicts else 0


def about_clocks(server: float, before: float, after: float) -> Finding:
    """From the server's time and ours, before and after it was asked; in seconds since the epoch."""
    skew = server - min(max(server, before), after)
    if abs(skew) <= _SKEW_S:
        return Finding("clocks", Verdict.OK, f"the server's differs by less than {_SKEW_S:g} s")
    found = f"the server's is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}: lag is told wrong"
    return Finding("clocks", Verdict.WARNING, found, "timedatectl set-ntp true, on the machine that is wrong")


def about_no_encryption(host: str, remedy: str) -> Finding:
    """Fine on this machine, and nowhere else. ``host``: a name, an address, or a socket's path."""
    near = not host or host.startswith(("/", "@")) or host == "localhost"
    with suppress(ValueError):
        near = near or ipaddress.ip_address(host).is_loopback
    if near:
        return Finding("TLS", Verdict.OK, "not encrypted, on this machine")
    found = "not encrypted: the password and every result cross the network in the clear"
    return Finding("TLS", Verdict.WARNING, found, remedy)
