"""No message about a URL holds a piece of its password."""

from __future__ import annotations

import traceback

import pytest

import ffcompletion as ffc
from ffcompletion.backends.postgres import PostgresCheckpoints
from ffcompletion.doctor import examine
from ffcompletion.producers import install

PIECES = ["abc{}S3cret@db", "abc{}S3cret@db:6379/0", "1{}S3cret@db/app", "abc{}S3cret@more@db"]


@pytest.mark.parametrize("scheme", ["valkey", "rediss", "postgresql", "postgres"])
@pytest.mark.parametrize("rest", PIECES)
@pytest.mark.parametrize("mark", ["?", "/", "#"])
async def test_a_password_that_is_not_encoded(scheme: str, rest: str, mark: str) -> None:
    """Refused, with the remedy, through every door; encoded as it says, it is taken."""
    url = f"{scheme}://app:{rest.format(mark)}"
    with pytest.raises(ffc.Validation, match="percent-encode the password") as caught:
        ffc.connect(url)
    doors = [caught.value]
    with pytest.raises(ffc.Validation, match="percent-encode the password") as installing:
        await install(url)
    doors.append(installing.value)
    if scheme.startswith("postgres"):
        with pytest.raises(ffc.Validation, match="percent-encode the password") as keeping:
            PostgresCheckpoints(url)
        doors.append(keeping.value)
    for error in doors:
        assert "S3cret" not in f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
    encoded = f"{scheme}://app:abc%{ord(mark):02X}S3cret%40x@db:6379/0"
    assert "S3cret" not in repr(ffc.connect(encoded))


@pytest.mark.parametrize(
    "rest", ["ab@S3cret@db/x", "S3cret@@db/x", "a@S3cret@one,two/x", "S3cret%FF@db/x", "S3cret\udc80@db/x"]
)
async def test_a_password_whose_rest_would_be_a_host_and_one_that_is_no_text(rest: str) -> None:
    """On Postgres, where libpq takes the first @ for the last; bytes that are no text on both servers."""
    schemes = ["postgresql"] if rest.count("@") > 1 else ["postgresql", "valkey"]
    for scheme in schemes:
        url = f"{scheme}://app:{rest}"
        with pytest.raises(ffc.Validation, match=r"more than one @|no UTF-8") as caught:
            ffc.connect(url)
        with pytest.raises(ffc.Validation, match=r"more than one @|no UTF-8") as examined:
            await examine(url)
        for error in (caught.value, examined.value):
            assert "S3cret" not in f"{error} {error!r} {error.__cause__!r} {traceback.format_exception(error)}".replace(
                url, ""
            )
    assert "S3cret" not in repr(ffc.connect("valkey://app:ab@S3cret@db"))
    assert "%FF" not in repr(ffc.connect("host=db password=%FF dbname=x")), "no URL, so nothing is encoded"


def test_an_option_with_an_at_sign_is_written_encoded() -> None:
    """Nothing legal is out of reach."""
    assert "db" in repr(ffc.connect("postgresql://app@db/x?application_name=me%40here"))


def test_what_only_looks_like_a_url() -> None:
    """A password with ``://`` and ``@`` in it beside a socket in the abstract namespace, as pairs and in a URL."""
    for conninfo in (
        "host=@app/run dbname=x user=app password=a://b:S3cret@c",
        "password='S3cret://x@y@z' host=@/run/app dbname=x",
        "postgresql://app:S3cret@%40run%2Fapp/x",
        "postgresql:///x?host=%40run&password=S3cret%40%40",
    ):
        shown = repr(ffc.connect(conninfo))
        assert "@" in shown
        assert "S3cret" not in shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://app:S3cret@db/x?sslmodee=S3cret", "unknown parameter 'sslmodee'; did you mean sslmode?"),
        (
            "postgresql://app@db/x?sslmode=require&ssl_cert=S3cret",
            "unknown parameter 'ssl_cert'; did you mean sslcert?",
        ),
        ("postgresql://db/x?pool_size=S3cret", "unknown parameter 'pool_size'; libpq's are known"),
        ("host=db dbnam=S3cret", "unknown parameter 'dbnam'; did you mean dbname?"),
        ("postgresql://db/x?password=ab&S3cret=x", "not a libpq connection string"),
        ("host=db password=ab S3cret=x", "not a libpq connection string"),
        ("host=db passfile=x S3cre%74", "not a libpq connection string"),
    ],
)
async def test_a_parameter_that_there_is_not_is_named(url: str, message: str) -> None:
    """Its name, never its value; nor a name that is what an unencoded password goes on with."""
    with pytest.raises(ffc.Validation) as connecting:
        ffc.connect(url)
    with pytest.raises(ffc.Validation) as keeping:
        PostgresCheckpoints(url)
    with pytest.raises(ffc.Validation) as installing:
        await install(url)
    for error in (connecting.value, keeping.value, installing.value):
        assert message in str(error)
        assert "S3cret" not in "".join(traceback.format_exception(error)).replace(url, "")


def _shown(error: BaseException) -> str:
    return f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("dbname=postgresql://app:S3cret@db/x host=db", "dbname holds a URL"),
        ("host=postgresql://app:S3cret@db/x", "host holds a URL"),
        ("host=one,app:S3cret@db", "host holds a URL, or a user"),
        ("service=postgresql://app:S3cret@db/x", "service holds a URL"),
        ("postgresql:///x?host=app:S3cret%40db", "host holds a URL, or a user"),
        ("host=db port=S3cret", "a port must be a number"),
        ("host=db connect_timeout=S3cret", "connect_timeout must be a number"),
        ("Postgres://app:S3cret@db/x", "lower case"),
        ("host=db password=ab S3cret=x", "not a libpq connection string"),
    ],
)
async def test_a_url_in_the_place_of_a_name(url: str, message: str) -> None:
    """Whoever pastes it there has its password shown with the name, by us and by the server."""
    with pytest.raises(ffc.Validation, match=message) as connecting:
        ffc.connect(url)
    with pytest.raises(ffc.Validation, match=message) as keeping:
        PostgresCheckpoints(url)
    with pytest.raises(ffc.Validation, match=message) as installing:
        await install(url)
    with pytest.raises(ffc.Validation, match=message) as examining:
        await examine(url)
    for caught in (connecting, keeping, installing, examining):
        assert "S3cret" not in _shown(caught.value)


@pytest.mark.parametrize("name", ["PGHOST", "PGDATABASE", "PGSERVICE"])
def test_a_url_in_the_place_of_a_name_in_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, from where libpq takes what the connection string does not say."""
    monkeypatch.setenv(name, "postgresql://app:S3cret@db/x")
    with pytest.raises(ffc.Validation, match="holds a URL") as caught:
        ffc.connect("user=app")
    assert "S3cret" not in _shown(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("valkey://db?password=ab&S3cret=x", "unknown option 'password'"),
        ("valkey://db?S3cret=x&requirepass=ab", "unknown option; known are"),
        ("valkey://app:[S3cret]@db", "cannot be parsed"),
        ("valkey://db:1;S3cret", "a port must be a number"),
        ("valkey://db?clutser=true", "unknown option 'clutser'"),
    ],
)
def test_what_valkey_s_url_cannot_be(url: str, message: str) -> None:
    """Neither the error nor its context quotes what may be a password, or go on with one."""
    with pytest.raises(ffc.Validation, match=message) as caught:
        ffc.connect(url)
    assert "S3cret" not in _shown(caught.value)
