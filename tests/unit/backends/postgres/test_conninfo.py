"""What a connection string names, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

import ffcompletion as ffc
from ffcompletion.backends.postgres.connection import Target
from ffcompletion.backends.postgres.conninfo import parsed


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("sslmode", "verify-full"),
        ("channel_binding", "require"),
        ("gssencmode", "disable"),
        ("target_session_attrs", "prefer-standby"),
        ("load_balance_hosts", "random"),
    ],
)
def test_a_parameter_takes_its_words_alone(name: str, good: str) -> None:
    """At once, not when it connects, and again and again then; and what stands there may be a piece of a password."""
    assert parsed(f"postgresql://u@h/db?{name}={good}")[name] == good
    with pytest.raises(ffc.Validation, match=f"{name} must be one of .*{good}") as caught:
        parsed(f"postgresql://u:pw@h/db?{name}=sEcReT")
    assert "sEcReT" not in f"{caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"


@pytest.mark.parametrize(
    ("url", "environment", "wanted"),
    [
        ("host=a", {}, None),
        ("host=a,b", {}, "primary"),
        ("hostaddr=10.0.0.1,10.0.0.2", {}, "primary"),
        ("host=a,b target_session_attrs=any", {}, "any"),
        ("host=a,b", {"PGTARGETSESSIONATTRS": "any"}, None),
        ("", {"PGHOST": "a,b"}, "primary"),
        ("", {"PGHOST": "a"}, None),
        ("host=c", {"PGHOST": "a,b"}, None),
        ("", {"PGSERVICE": "pair"}, "primary"),
    ],
)
def test_of_several_hosts_the_primary(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, environment: dict[str, str], wanted: str | None
) -> None:
    """Wherever libpq takes them from; who says otherwise is heard."""
    services = tmp_path / "services"
    services.write_text("[pair]\nhost=a,b\n")
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGTARGETSESSIONATTRS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PGSERVICEFILE": str(services), **environment}.items():
        monkeypatch.setenv(name, value)
    assert conninfo_to_dict(Target(url, 2.0).conninfo).get("target_session_attrs") == wanted
