"""``CompletionPayload``: the wire's outcome, and what kind it is."""

from __future__ import annotations

import pytest

import ffcompletion as ffc
from ffcompletion.contract.payload import kind_of


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        ("success", ffc.Outcome.SUCCESS),
        ("failed", ffc.Outcome.FAILED),
        ("failure", ffc.Outcome.FAILED),
        ("cancelled", ffc.Outcome.CANCELLED),
        ("expired", ffc.Outcome.EXPIRED),
        ("skipped", ffc.Outcome.SKIPPED),
        ("", ffc.Outcome.OTHER),
        ("Success", ffc.Outcome.OTHER),
        ("resumable", ffc.Outcome.OTHER),
    ],
)
def test_outcome_is_verbatim_and_kind_an_enum(wire: str, kind: ffc.Outcome) -> None:
    """The wire's string stays; the enum knows the five and both spellings of failed."""
    payload = ffc.CompletionPayload(ffc.ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000"), wire)
    assert payload.outcome == wire
    assert payload.kind is kind_of(wire) is kind
