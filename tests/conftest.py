"""Servers once per session, worlds once per test, and a check that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest
from hypothesis import settings

from ffcompletion import embedded
from tests.worlds import MemoryWorld, PostgresWorld, ValkeyWorld, World
from tests.worlds.emptying import forget_connections
from tests.worlds.forking import close_source
from tests.worlds.templates import ENGINE_PARTITIONS, FEW_PARTITIONS, engine_schema
from tests.worlds.templates import postgres as postgres_server
from tests.worlds.temporary import begin_run, keep_bytecode, left_behind

begin_run()
keep_bytecode()

settings.register_profile("dev", max_examples=60, deadline=None)
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

LOOP = os.environ.get("FFCOMPLETION_TEST_LOOP")
VALKEY_URL = os.environ.get("FFCOMPLETION_TEST_VALKEY_URL")
POSTGRES_URL = os.environ.get("FFCOMPLETION_TEST_POSTGRES_URL")


if LOOP is not None:

    def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        """Another event loop than the standard library's: ``uvloop``."""
        return {str(LOOP): importlib.import_module(str(LOOP)).new_event_loop}


def pytest_collection_finish() -> None:
    """What is loaded by now stays: ``gc.collect``, which many tests call, need not look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    if VALKEY_URL:
        yield VALKEY_URL
        return
    with embedded.valkey() as server:
        yield server.url


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """What is kept between tests ends with them; after the last process of pytest-xdist nothing is left."""
    forget_connections()
    close_source()
    if "PYTEST_XDIST_WORKER" not in os.environ and (left := left_behind()):
        print(f"\nleft behind: {left}")  # there is no test that could fail for it
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _postgres(version: int, partitions: int) -> Iterator[str]:
    if POSTGRES_URL:
        engine_schema(POSTGRES_URL)
        yield POSTGRES_URL
        return
    with postgres_server(version=version, partitions=partitions) as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres16_url() -> Iterator[str]:
    yield from _postgres(16, FEW_PARTITIONS)


@pytest.fixture(scope="session")
def postgres18_url() -> Iterator[str]:
    yield from _postgres(18, FEW_PARTITIONS)


@pytest.fixture(scope="session")
def engine18_url() -> Iterator[str]:
    """With as many partitions as the engine makes: for what reads its tables, and how."""
    yield from _postgres(18, ENGINE_PARTITIONS)


@pytest.fixture(params=["memory", "valkey", "postgres16", "postgres18"])
async def world(request: pytest.FixtureRequest) -> AsyncGenerator[World]:
    """Each kind of backend in turn."""
    kind: str = request.param
    made: World
    if kind == "memory":
        made = MemoryWorld()
    elif kind == "valkey":
        made = ValkeyWorld(request.getfixturevalue("valkey_url"))
    else:
        made = PostgresWorld(int(kind.removeprefix("postgres")), request.getfixturevalue(f"{kind}_url"))
    await made.reset()
    yield made
    await made.close()


# No statement of ours depends on the version: the contract and the adapter are held against both, what stands upon them
# against the newer one.
_ONE_VERSION = ("documents", "doors")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The versions of Postgres, where a test does not say itself which it wants."""
    said = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "postgres" in metafunc.fixturenames and "postgres" not in said:
        versions = (
            [18] if set(_ONE_VERSION) & {folder.name for folder in metafunc.definition.path.parents} else [16, 18]
        )
        ids = [f"postgres{version}" for version in versions]
        metafunc.parametrize("postgres", versions, ids=ids, indirect=True)


@pytest.fixture
async def postgres(request: pytest.FixtureRequest) -> AsyncGenerator[PostgresWorld]:
    """Of the version that the parameter says."""
    made = PostgresWorld(request.param, request.getfixturevalue(f"postgres{request.param}_url"))
    await made.reset()
    yield made
    await made.close()


@asynccontextmanager
async def _emptied(url: str) -> AsyncGenerator[PostgresWorld]:
    async with PostgresWorld(18, url) as made:
        await made.reset()
        yield made
        await made.reset()


@pytest.fixture
async def engine(postgres18_url: str) -> AsyncGenerator[PostgresWorld]:
    """The engine's own tables: in ours nothing ends without a row, and an id is one row's."""
    async with _emptied(postgres18_url) as made:
        yield made


@pytest.fixture
async def engine256(engine18_url: str) -> AsyncGenerator[PostgresWorld]:
    """The same, of as many partitions as the engine makes."""
    async with _emptied(engine18_url) as made:
        yield made


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncGenerator[ValkeyWorld]:
    made = ValkeyWorld(valkey_url)
    await made.reset()
    yield made
    await made.close()


@pytest.fixture(autouse=True)
async def _no_task_left_behind() -> AsyncGenerator[None]:
    """Every test closes what it opened: no task of ours outlives it."""
    yield
    # What ends with its backend has a moment to do so: a question that is cancelled at the server takes its time.
    end = time.monotonic() + 1
    while True:
        left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("ffcompletion")]
        if not left or time.monotonic() > end:
            break
        await asyncio.sleep(0)
    assert not left, f"left behind: {left}"
