"""Where a Valkey is: from its URL, checked before anything is sent. Secrets: see ``test_url_secrets``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ffcompletion as ffc
from ffcompletion.backends.valkey.options import Options


def test_all_of_a_url() -> None:
    options = Options.from_url("valkey://us%40r:p%2Fw@one:7000,[::1]/3")
    assert (options.hosts, options.database) == ((("one", 7000), ("::1", 6379)), 3)
    assert (options.username, options.password) == ("us@r", "p/w")
    assert (options.tls, options.cluster, options.shown) == (False, False, "valkey at one:7000,::1:6379/3")
    assert repr(options) == "<Options valkey at one:7000,::1:6379/3>"


def test_keywords_take_precedence(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    options = Options.from_url(
        f"rediss://a:b@h/1?cluster=no&tls_ca={tmp_path}/none.pem",
        username="u", password="p", database=2, tls_ca=tmp_path / "ca.pem",
    )  # fmt: skip
    assert (options.username, options.password, options.database, options.tls_ca) == ("u", "p", 2, b"CA")
    assert options.shown.startswith("valkeys at h")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "scheme"),
        ("valkey://h/x", "database number"),
        ("valkey://h/²", "database number"),
        ("valkey://h:x", "port"),
        ("valkey://h:70000", "port"),
        ("valkey://", "host is missing"),
        ("valkey://a,,b", "host is missing"),
        ("valkey://[::1", "cannot be parsed"),
        ("valkey://h?clustre=true", "unknown option 'clustre'"),
        ("valkey://h?cluster=maybe", "cluster must be true or false"),
        ("valkey://h/1?cluster=yes", "database 0 only"),
        ("valkey://user@h", "a user needs a password"),
        ("valkey://h?tls_ca=/x", "not valkeys or rediss"),
        ("valkeys://h?tls_cert=/x", "both tls_cert and tls_key"),
        ("valkeys://h?tls_ca=/no/such/file", "cannot read"),
        ("valkeys://h?tls_ca=/dev/null", "is empty"),
    ],
)
def test_what_is_wrong_is_said(url: str, said: str) -> None:
    with pytest.raises(ffc.Validation, match=said):
        Options.from_url(url)


@pytest.mark.parametrize("database", [-1, 1.5, "1"])
def test_a_database_is_a_number(database: Any) -> None:
    with pytest.raises(ffc.Validation, match="database"):
        Options.from_url("valkey://h", database=database)


@pytest.mark.parametrize(
    ("url", "hosts", "extra"),
    [
        ("valkey://h", (("h", 6379),), {}),
        ("redis://h:1,[::1]:2/3", (("h", 1), ("::1", 2)), {"database": 3}),
        (
            "valkeys://u:p%40:x@h/?cluster=true",
            (("h", 6379),),
            {"username": "u", "password": "p@:x", "cluster": True, "tls": True},
        ),
        ("rediss://:p@h/0", (("h", 6379),), {"password": "p", "username": None, "tls": True}),
    ],
)
def test_urls_are_read(url: str, hosts: object, extra: dict[str, object]) -> None:
    """Hosts, credentials, database, TLS, cluster."""
    options = Options.from_url(url)
    assert options.hosts == hosts
    for name, value in extra.items():
        assert getattr(options, name) == value
    assert "p@:x" not in repr(options) + options.shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("valkey://", "host is missing"),
        ("valkey://user@h", "needs a password"),
        ("valkey://h:sEcReT", "port"),
        ("valkey://h:99999", "port"),
        ("valkey://h/x", "database number"),
        ("valkey://h?nope=1", "unknown option 'nope'"),
        ("valkey://h/1?cluster=true", "database 0 only"),
        ("valkey://h?cluster=maybe", "true or false"),
        ("valkeys://h?tls_ca=/does/not/exist", "cannot read"),
        ("valkeys://h?tls_cert=/dev/null", "both tls_cert and tls_key"),
        ("valkey://h?tls_ca=/dev/null", "scheme is not valkeys"),
        ("valkeys://h?tls_ca=/dev/null", "empty"),
        ("valkey://u:sEcReT@[::1", "cannot be parsed"),
    ],
)
def test_bad_urls_are_refused_with_the_remedy(url: str, message: str) -> None:
    """``Validation``, before anything is sent."""
    with pytest.raises(ffc.Validation) as caught:
        ffc.connect(url)
    assert message in str(caught.value)
    assert "sEcReT" not in str(caught.value)
