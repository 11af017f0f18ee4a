"""The errors: one tree, and each says what and why."""

from __future__ import annotations

import ffcompletion as ffc


def test_errors_form_a_tree_and_tell() -> None:
    """One base; each message names what and why."""
    leaves = [
        ffc.Unavailable("op", "why"),
        ffc.Transport("backend", "why"),
        ffc.Validation("kind", "why"),
        ffc.CursorExpired("why"),
        ffc.NotFound("why"),
        ffc.ResourceExhausted("pool", "why"),
    ]
    for error in leaves:
        assert isinstance(error, ffc.EngineError)
        assert "why" in str(error)
    assert isinstance(leaves[3], ffc.Validation)
