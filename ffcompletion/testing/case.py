"""One test per clause, for pytest or any runner that collects ``test_*`` methods and knows ``unittest.SkipTest``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import final

import msgspec

from ffcompletion.testing.check import Check
from ffcompletion.testing.report import CHECKS
from ffcompletion.testing.subject import Announcer, Factory, Options

__all__ = ["BackendContract", "Subject"]


@final
class Subject(msgspec.Struct, frozen=True):
    """What is held against the contract: the arguments of ``check_backend``."""

    factory: Factory
    announcer: Announcer
    options: Options = Options()


class BackendContract:
    """Inherit, and supply a fixture ``backend_contract``: a function that returns an ``async with`` of a ``Subject``.

    ::

        class TestMine(BackendContract):
            @pytest.fixture
            def backend_contract(self):
                @asynccontextmanager
                async def subject():
                    async with connect_to_my_server() as server:
                        yield Subject(lambda: MyBackend(server), MyAnnouncer(server))

                return subject

    Each clause is one test, ``test_1_1_live_on_return`` and so on, with an event loop and a subject of its own. What
    does not apply is skipped, and says why.
    """


def _test(check: Check) -> Callable[..., None]:
    def test(
        self: BackendContract,  # noqa: ARG001  # a method
        backend_contract: Callable[[], AbstractAsyncContextManager[Subject]],
    ) -> None:
        async def run() -> None:
            async with backend_contract() as subject:
                await check(subject.factory, subject.announcer, subject.options)

        asyncio.run(run())

    test.__doc__ = check.title
    test.__name__ = f"test_{check.clause.replace('.', '_')}_{check.name}"
    test.__qualname__ = f"{BackendContract.__qualname__}.{test.__name__}"
    return test


for _check in CHECKS:
    _made = _test(_check)
    setattr(BackendContract, _made.__name__, _made)
