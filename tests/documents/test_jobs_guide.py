"""The guide to tables of jobs, as a reader follows it: each section from `pip install` to an awaited job, as pasted.

With the wheel, in an environment for readers; what somebody has done who runs the library already is done before.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests import ROOT
from tests.worlds.attaching import database
from tests.worlds.once import once, wheel

TEXT = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# The last sections go on with what the one on a table of one's own has made.
HEADINGS = ("procrastinate", "pgqueuer", "DBOS", "Django tasks", "A table of your own")
SHOWN = "postgresql://localhost/app"
# Each section begins with it. Run once, in an environment for all of them.
INSTALL = "pip install 'ffcompletion[postgres,cli]'\n"

SETTINGS = """
import os
from psycopg.conninfo import conninfo_to_dict
given = conninfo_to_dict(os.environ["URL"])
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": given["dbname"], "USER": given["user"],
                         "HOST": given["host"], "PORT": given["port"]}}
INSTALLED_APPS = ["django_tasks", "django_tasks_db", "mail"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
USE_TZ = True
SECRET_KEY = "x"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
PROCRASTINATE = """
import os, procrastinate
with procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=os.environ["URL"])).open() as app:
    app.schema_manager.apply_schema()
"""
# What is there already where the guide begins.
ALREADY = {
    "procrastinate": f"python -c '{PROCRASTINATE}'",
    "pgqueuer": "python -m pgqueuer install",
    "DBOS": 'dbos migrate --sys-db-url "$URL"',
    "Django tasks": "python manage.py migrate",
    "A table of your own": "",
}
# What the reader sees.
SEEN = {
    "procrastinate": [
        r"^job 1: success$", r" success +procrastinate 1",
    ],
    "pgqueuer": [r"^job 1: success$"],
    "DBOS": [r"^success \{'day': 'monday', 'total': 42\}$"],
    "Django tasks": [r"""^success b'\{"sent": "ada@example.com"\}'$"""],
    "A table of your own": [
        r"^/1\.pdf", r" success +reports 1 ", r"^CREATE TRIGGER", r"^app\.reports is attached as mine; 2 jobs",
        r"^1 success b'fine'$", r"^mine\tapp\.reports\tworking\t2 jobs, 1 finished$", r"^reports is detached$",
    ],
}  # fmt: skip


def sections() -> dict[str, str]:
    found: dict[str, str] = {}
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        if heading in HEADINGS:
            found[heading] = text
        else:
            found[HEADINGS[-1]] += text
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the guide's first line has been run; everything else is there already."""
    wheels = wheel(tmp_path_factory).parent

    def make(home: Path) -> None:
        venv.create(home, with_pip=False)
        packages = next(home.glob("lib/*/site-packages"))
        (packages / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for name, module in (("pip", "pip"), ("procrastinate", "procrastinate"), ("dbos", "dbos.cli.cli")):
            script = home / "bin" / name
            run = (
                "from dbos.cli.cli import app; app()"
                if name == "dbos"
                else f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
            )
            script.write_text(f"#!{home}/bin/python\n{run}\n")
            script.chmod(0o755)
        subprocess.run(
            ["bash", "-euc", INSTALL], check=True, stdout=subprocess.DEVNULL, timeout=100,
            env={
                **shell_of(home, home), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_NO_DEPS": "1",
                "PIP_IGNORE_INSTALLED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            },
        )  # fmt: skip
        assert (home / "bin" / "ffcompletion").exists()

    return once(tmp_path_factory, "reader", make)


def shell_of(environment: Path, home: Path) -> dict[str, str]:
    """A shell's variables, in which an environment is activated."""
    path = [str(environment / "bin"), "/usr/bin", "/bin"]
    if psql := shutil.which("psql") or next(map(str, Path(sysconfig.get_path("purelib")).glob("*/**/bin/psql")), None):
        path.insert(1, str(Path(psql).parent))
    return {"PATH": ":".join(path), "HOME": str(home), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def url(postgres18_url: str) -> Iterator[str]:
    with database(postgres18_url, f"jobs_guide_{os.getpid()}", producers=False) as conninfo:
        given = conninfo_to_dict(conninfo)
        yield f"postgresql://{given['user']}@/{given['dbname']}?host={given['host']}&port={given.get('port', 5432)}"


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_section_as_it_is_pasted(heading: str, url: str, environment: Path, tmp_path: Path) -> None:
    """Files are what their first line names; everything else is one shell's session, line after line."""
    work = tmp_path / "work"
    (work / "mail").mkdir(parents=True)
    session = ["set -euo pipefail", ALREADY[heading]]
    for number, (language, text) in enumerate(BLOCK.findall(sections()[heading])):
        named = re.match(r"# (\S+\.\w+)\n", text)
        if language == "sh":
            session.append(text.removeprefix(INSTALL).replace(SHOWN, f"'{url}'"))
        elif language == "sql":
            (work / f"{number}.sql").write_text(text)
            session.append(f'psql -q -v ON_ERROR_STOP=1 "$URL" -f {number}.sql')
        else:
            assert language in ("python", "py", "toml")
            name = named[1] if named else f"block_{number}.py"
            (work / name).write_text(text.replace(SHOWN, url))
            if not named:
                session.append(f"python {name}")
    if heading == "Django tasks":
        (work / "settings.py").write_text(SETTINGS)
        (work / "manage.py").write_text(MANAGE)
        (work / "mail" / "__init__.py").touch()
    else:
        (work / "mail").rmdir()
    with subprocess.Popen(
        ["bash", "-c", "\n".join(session)], cwd=work, text=True,
        env={**shell_of(environment, tmp_path), "URL": url, "PGDSN": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            # Workers that were sent to the background hold the pipes for as long as they live.
            status = shell.wait(timeout=100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        out, err = shell.communicate()
    assert status == 0, out + err
    for pattern in SEEN[heading]:
        assert re.search(pattern, out, re.MULTILINE), f"{pattern}\n{out}\n{err}"


def test_every_block_is_run() -> None:
    """None stands outside of the sections, none is in a language that is not run."""
    run = [block for text in sections().values() for block in BLOCK.findall(text)]
    assert run == BLOCK.findall(TEXT)
    assert {language for language, _ in run} == {"sh", "sql", "python", "py", "toml"}
    for text in sections().values():
        first = next(block for language, block in BLOCK.findall(text) if language == "sh")
        assert first.startswith(f"{INSTALL}ffcompletion attach ")
