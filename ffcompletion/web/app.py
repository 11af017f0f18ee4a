"""``completions_app``: the routes, who may ask what, and how an answer ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from ffcompletion.consumers.waiting import wait_for_completion
from ffcompletion.contract.errors import CursorExpired, EngineError, NotFound, Validation
from ffcompletion.contract.ids import ExecutionId
from ffcompletion.contract.numbers import check_count, check_seconds
from ffcompletion.contract.payload import CompletionPayload
from ffcompletion.contract.protocols import CompletionBackend, ExecutionReader
from ffcompletion.foreign.awaiting import called
from ffcompletion.foreign.calling import name_of
from ffcompletion.foreign.logs import logger
from ffcompletion.web.channels import Channels
from ffcompletion.web.grants import Authorize, Grant
from ffcompletion.web.responses import EventStream, until
from ffcompletion.web.status import status_of
from ffcompletion.web.stopping import Stopping

__all__ = ["CompletionsApp", "completions_app"]

log: Final = logger("ffcompletion.web")

_AUTHORIZE_S: Final = 10.0


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


class _Refused(Exception):
    """What the client is told instead of an answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.response = _json({"error": text}, status)


_Answer = Callable[[Request, Receive, Send], Awaitable[Response | None]]


@final
class CompletionsApp:
    """What ``completions_app`` returns: an ASGI application."""

    def __init__(self, backend: CompletionBackend, authorize: Authorize, channels: Channels, options: _Options) -> None:
        self._backend = backend
        self._authorize = authorize
        self._channels = channels
        self._options = options
        self._stopping = Stopping()
        self._clients = 0
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
        return self._clients

    def _route(self, answer: _Answer) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return _Deferred(self, answer, request)

        return endpoint

    async def answered(self, answer: _Answer, request: Request, receive: Receive, send: Send) -> Response | None:
        """Within the bound on clients, and with every refusal as a response."""
        if self._stopping.stopped or self._clients >= self._options.max_clients:
            return _unavailable("the service is stopping" if self._stopping.stopped else "too many clients")
        self._clients += 1
        try:
            return await answer(request, receive, send)
        except _Refused as exc:
            return exc.response
        except HTTPException as exc:
            return _json({"error": exc.detail}, exc.status_code, exc.headers)
        except EngineError as exc:
            return _trouble(exc)
        finally:
            self._clients -= 1

    async def granted(self, request: Request) -> Grant:
        """What the client may see, by ``authorize``. Raises ``_Refused`` and ``HTTPException``."""
        try:
            async with asyncio.timeout(_AUTHORIZE_S):
                grant: object = await called("authorize", lambda: self._authorize(request))
        except HTTPException:
            raise
        except Exception as exc:
            log.exception("web: authorize raised; nothing is shown")
            raise _Refused(403, "not allowed") from exc
        if isinstance(grant, Grant):
            return grant
        if grant is not None:
            log.error("web: authorize returned %s, which is no Grant; nothing is shown", name_of(grant))
        raise _Refused(403, "not allowed")

    async def _still_granted(self, request: Request, wanted: Grant) -> None:
        """Returns when it is no longer."""
        while True:
            await asyncio.sleep(self._options.reauthorize_s)
            try:
                if not (await self.granted(request)).covers(wanted):
                    return
            except (_Refused, HTTPException):
                return

    async def _events(self, request: Request, receive: Receive, send: Send) -> Response | None:
        grant = await self.granted(request)
        wanted = grant.narrowed(request.query_params.get("namespace"), _tag(request.query_params.get("tag")))
        if wanted is None:
            raise _Refused(403, "not allowed")
        resumable = self._channels.resumable
        headers = {"Completions-Resume": "yes" if resumable else "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type="text/event-stream")
        last_id = request.headers.get("last-event-id") or request.query_params.get("last_event_id") or None
        status = None
        if request.query_params.get("status") == "1":
            status = status_of(self._backend, resumable=resumable, whole=grant.is_everything)
        with self._stopping.watched() as stopping:
            async with self._channels.joined(wanted, last_id) as outbox:
                await EventStream(outbox, self._options.keepalive_s, headers, status)(
                    receive, send, self._still_granted(request, wanted), stopping
                )
        return None

    async def _execution(self, request: Request, receive: Receive, _: Send) -> Response | None:
        grant = await self.granted(request)
        id_ = ExecutionId(request.path_params["execution_id"])
        seconds = _seconds(request.query_params.get("timeout"), self._options.max_wait)
        await self._check_admitted(grant, id_)
        result = request.query_params.get("result") == "1"
        with self._stopping.watched() as stopping:
            # A grant for this execution alone would be too narrow a word: what was granted must go on being granted.
            done = await until(
                wait_for_completion(self._backend, id_, timeout=seconds, result=result),
                receive,
                self._still_granted(request, grant),
                stopping,
            )
        if stopping.done():
            return _unavailable("the service is stopping")
        if isinstance(done, TimeoutError):
            return _json({"execution_id": str(id_), "finished": False}, 202, {"Retry-After": "0"})
        if isinstance(done, NotFound):
            raise _Refused(404, "no such execution")
        if isinstance(done, BaseException):
            raise done
        if done is None:
            raise _Refused(403, "not allowed")
        return _json(_as_answer(done, result=result))

    async def _check_admitted(self, grant: Grant, id_: ExecutionId) -> None:
        """Raises ``_Refused`` with 404, whether it does not exist or is somebody else's."""
        if grant.is_everything:
            return
        found = None
        if isinstance(self._backend, ExecutionReader):
            found = await self._backend.describe_execution(id_)
        if found is None or not grant.admits(found):
            raise _Refused(404, "no such execution")


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


def _as_answer(done: CompletionPayload, *, result: bool) -> dict[str, object]:
    answer: dict[str, object] = {
        "execution_id": str(done.execution_id),
        "finished": True,
        "outcome": done.outcome,
        "kind": done.kind.value,
        "flow_id": None if done.flow_id is None else str(done.flow_id),
        "produced_at_ms": done.produced_at_ms,
    }
    if result:
        stored = done.payload_bytes
        try:
            answer["result"] = None if stored is None else stored.decode()
        except UnicodeDecodeError:
            answer["result_base64"] = stored
    return answer


def _json(data: dict[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(data),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def _trouble(exc: EngineError) -> Response:
    if isinstance(exc, CursorExpired):
        return _json({"error": f"cannot be resumed: {exc.detail}"}, 410)
    if isinstance(exc, Validation):
        return _json({"error": str(exc)}, 400)
    # It names servers, which are no client's business.
    log.warning("web: %s", exc)
    return _unavailable("the completions cannot be had just now")


def _unavailable(text: str) -> Response:
    return _json({"error": text}, 503, {"Retry-After": "1"})


def _tag(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise _Refused(400, "tag is key=value")
    return key, value


def _seconds(text: str | None, most: float) -> float:
    try:
        seconds = min(30.0, most) if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most:
        raise _Refused(400, f"timeout is a number of seconds, 0 to {most:g}")
    return seconds
