"""``completions_app``: the routes, who may ask what, and how an answer ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from ffcompletion.consumers.waiting import wait_for_completion
from ffcompletion.contract.errors import EngineError, NotFound
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.numbers import check_count, check_seconds
from ffcompletion.contract.protocols import CompletionBackend, ExecutionReader
from ffcompletion.delivery.ratelog import RateLog
from ffcompletion.foreign.awaiting import called
from ffcompletion.foreign.calling import name_of
from ffcompletion.foreign.logs import logger
from ffcompletion.web.answers import (
    Refused,
    as_answer,
    in_pieces,
    json_answer,
    raised,
    seconds_of,
    tag_of,
    trouble,
    unavailable,
)
from ffcompletion.web.channels import Channels
from ffcompletion.web.grants import Authorize, Grant
from ffcompletion.web.places import Places
from ffcompletion.web.questions import Questions
from ffcompletion.web.responses import EventStream, gone, unless, until
from ffcompletion.web.status import Status
from ffcompletion.web.stopping import Stopping
from ffcompletion.web.turns import Turns

__all__ = ["CompletionsApp", "completions_app"]

log: Final = logger("ffcompletion.web")

_AUTHORIZE_S: Final = 10.0
# Of one grant's results, those that are read and sent at a time; within so many seconds each.
_RESULTS: Final = 4
_RESULT_S: Final = 20.0
_SENT_S: Final = 60.0


def completions_app(
    backend: CompletionBackend,
    *,
    authorize: Authorize,
    buffer_size: int = 1_000,
    max_clients: int = 10_000,
    max_wait: float = 60.0,
    keepalive: float = 15.0,
    reauthorize: float = 60.0,
    namespaces: bool = False,
) -> CompletionsApp:
    """An ASGI application over a backend, to be mounted into FastAPI, Starlette, Django or served by itself.

    - ``GET /events[?namespace=…][&tag=key=value]``: server-sent events, one for each completion that ``authorize`` grants
      and the query asks for. On a backend with a log each has an id, and a browser that lost its connection is given what
      it missed (``Last-Event-ID``, or ``last_event_id`` in the query), also after a restart of this service; the header
      ``Completions-Resume`` says ``yes`` or ``no``.
    - ``GET /executions/{id}[?timeout=…][&result=1]``: answers when it has finished, 200; 202 after ``timeout`` seconds, to
      be asked again; 404 for what does not exist or is not granted.

    ``authorize``: asked for every request, and every ``reauthorize`` seconds while an answer lasts; fails closed.
    ``buffer_size``: completions that wait for one slow client; beyond it, that client's stream ends and is resumed when it
    comes back (without a log: it loses the oldest, and is told). ``max_clients``: requests at once, 503 beyond.
    Of the last quarter of them a grant that has more than its share gets none, so that one tenant cannot keep the others out.
    ``max_wait``: the longest ``timeout``. ``keepalive``: seconds between signs of life. ``namespaces``: events say whose
    they are, for which the server is asked in batches.

    However many clients are connected, the backend has one stream for each filter. The backend stays the caller's to
    close. Under uvicorn every answer ends by itself when the server wants to stop; elsewhere call ``stop()``.
    Raises ``Validation`` for options that cannot be.
    """
    options = _Options(
        max_clients=check_count("max_clients", max_clients),
        max_wait=check_seconds("max_wait", max_wait),
        keepalive_s=check_seconds("keepalive", keepalive, above_zero=True),
        reauthorize_s=check_seconds("reauthorize", reauthorize, above_zero=True),
    )
    channels = Channels(backend, buffer_size=check_count("buffer_size", buffer_size), namespaces=namespaces)
    return CompletionsApp(backend, authorize, channels, options)


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    max_clients: int
    max_wait: float
    keepalive_s: float
    reauthorize_s: float


_Answer = Callable[[Grant, Request, Receive, Send], Awaitable[Response | None]]


@final
class CompletionsApp:
    """What ``completions_app`` returns: an ASGI application."""

    def __init__(self, backend: CompletionBackend, authorize: Authorize, channels: Channels, options: _Options) -> None:
        self._backend = backend
        self._authorize = authorize
        self._channels = channels
        self._options = options
        self._questions = Questions(backend) if isinstance(backend, ExecutionReader) else None
        self._stopping = Stopping()
        self._places = Places(options.max_clients)
        self._results = Turns(_RESULTS)
        self._status = Status(backend, resumable=channels.resumable)
        self._trouble_log = RateLog(log)
        self._authorize_log = RateLog(log)
        self._router = Router(
            [
                Route("/events", self._route(self._events), methods=["GET"]),
                Route("/executions/{execution_id}", self._route(self._execution), methods=["GET"]),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        await self._router(scope, receive, send)

    def stop(self) -> None:
        """End every answer that lasts, and refuse new ones; on the event loop's thread. Idempotent.

        Uvicorn's wish to stop is noticed without it. Servers that say nothing to their applications need this call before
        they wait for their connections.
        """
        self._stopping.stop()

    @property
    def clients(self) -> int:
        """Requests that are being answered now."""
        return self._places.taken

    def _route(self, answer: _Answer) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return _Deferred(self, answer, request)

        return endpoint

    async def answered(self, answer: _Answer, request: Request, receive: Receive, send: Send) -> Response | None:
        """Within the bound on clients, and with every refusal as a response."""
        if self._stopping.stopped:
            return unavailable("the service is stopping")
        with self._places.place() as there_is_one:
            if not there_is_one:
                return unavailable("too many clients")
            try:
                grant = await self.granted(request)
                with self._places.of(grant) as has_one:
                    return await answer(grant, request, receive, send) if has_one else unavailable("too many clients")
            except Refused as exc:
                return exc.response
            except HTTPException as exc:
                return raised(exc)
            except EngineError as exc:
                return trouble(exc, self._trouble_log)

    async def granted(self, request: Request) -> Grant:
        """What the client may see, by ``authorize``. Raises ``Refused`` and ``HTTPException``."""
        try:
            async with asyncio.timeout(_AUTHORIZE_S):
                grant: object = await called("authorize", lambda: self._authorize(request))
        except HTTPException:
            raise
        except Exception as exc:
            self._authorize_log.exception("web: authorize raised; nothing is shown")
            raise Refused from exc
        if isinstance(grant, Grant):
            return grant
        if grant is not None:
            self._authorize_log.error(f"web: authorize returned {name_of(grant)}, which is no Grant; nothing is shown")
        raise Refused

    async def _still_granted(self, request: Request, wanted: Grant) -> None:
        """Returns when it is no longer."""
        while True:
            await asyncio.sleep(self._options.reauthorize_s)
            try:
                if not (await self.granted(request)).covers(wanted):
                    return
            except (Refused, HTTPException):
                return

    async def _events(self, grant: Grant, request: Request, receive: Receive, send: Send) -> Response | None:
        wanted = grant.narrowed(request.query_params.get("namespace"), tag_of(request.query_params.get("tag")))
        if wanted is None:
            raise Refused
        resumable = self._channels.resumable
        headers = {"Completions-Resume": "yes" if resumable else "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type="text/event-stream")
        last_id = request.headers.get("last-event-id") or request.query_params.get("last_event_id") or None
        status, shown = None, wanted
        if request.query_params.get("status") == "1":
            status = partial(self._status.told, whole=grant.is_everything)
            # The counters are everybody's.
            shown = grant if grant.is_everything else wanted
        with self._stopping.watched() as stopping:
            async with AsyncExitStack() as stack:
                leaving = await stack.enter_async_context(gone(receive))
                try:
                    # Whoever has left is not to be opened a stream that others wait for.
                    async with unless(leaving, stopping):
                        outbox = await stack.enter_async_context(self._channels.joined(grant, wanted, last_id))
                except TimeoutError:
                    return unavailable("the completions cannot be had just now")
                await EventStream(outbox, self._options.keepalive_s, headers, status, self._channels.share(grant))(
                    leaving, send, self._still_granted(request, shown), stopping
                )
        return None

    async def _execution(self, grant: Grant, request: Request, receive: Receive, send: Send) -> Response | None:
        id_ = ExecutionId(request.path_params["execution_id"])
        seconds = seconds_of(request.query_params.get("timeout"), self._options.max_wait)
        await self._check_admitted(grant, id_)
        with self._stopping.watched() as stopping:
            # A grant for this execution alone would be too narrow a word: what was granted must go on being granted.
            done = await until(
                wait_for_completion(self._backend, id_, timeout=seconds),
                receive,
                self._still_granted(request, grant),
                stopping,
            )
        if stopping.done():
            return unavailable("the service is stopping")
        if isinstance(done, TimeoutError):
            return json_answer({"execution_id": str(id_), "finished": False}, 202, {"Retry-After": "0"})
        if isinstance(done, NotFound):
            raise Refused(404, "no such execution")
        if isinstance(done, BaseException):
            raise done
        if done is None:
            raise Refused
        if request.query_params.get("result") != "1":
            return json_answer(as_answer(done, result=False))
        return await self._with_result(grant, id_, receive, send)

    async def _with_result(self, grant: Grant, id_: ExecutionId, receive: Receive, send: Send) -> Response | None:
        """Results may be large, and clients slow: a few of each grant's are read, held and sent at a time."""
        began = False
        try:
            with self._stopping.watched() as stopping:
                async with gone(receive) as leaving, unless(leaving, stopping), self._results.turn(grant):
                    done = await wait_for_completion(self._backend, id_, timeout=_RESULT_S, result=True)
                    answer = await asyncio.to_thread(json_answer, as_answer(done, result=True))
                    began = True
                    async with asyncio.timeout(_SENT_S):
                        await in_pieces(answer, send)
        except TimeoutError:
            return None if began else unavailable("the result cannot be had just now")
        except NotFound:
            raise Refused(404, "no such execution") from None
        return None

    async def _check_admitted(self, grant: Grant, id_: ExecutionId) -> None:
        """Raises ``Refused`` with 404, whether it does not exist or is somebody else's."""
        if grant.is_everything:
            return
        found = None if self._questions is None else await self._questions.describe(id_)
        if found is None or not grant.admits(found):
            raise Refused(404, "no such execution")


@final
class _Deferred(Response):
    """A response that is made while it is being sent, so that it can see the client go away."""

    def __init__(
        self,
        app: CompletionsApp,
        answer: _Answer,
        request: Request,
    ) -> None:
        super().__init__()
        self._app = app
        self._answer = answer
        self._request = request

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._app.answered(self._answer, self._request, receive, send)
        if response is not None:
            await response(scope, receive, send)
