"""A web service that answers when an execution has finished, and streams a tenant's completions to browsers.

    pip install 'ffcompletion[postgres]' fastapi uvicorn
    COMPLETIONS_URL=postgresql://localhost/app uvicorn --app-dir examples fastapi_service:app

    curl localhost:8000/executions/'{fp:7}:550e8400-e29b-41d4-a716-446655440000'?timeout=30
    curl -N localhost:8000/tenants/tenant-a/completions

However many requests wait, the server has one subscription and asks for all of them at once.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import StreamingResponse

import ffcompletion as ffc

# Proxies close connections that are silent for longer.
KEEPALIVE_S = 15.0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with ffc.connect(os.environ["COMPLETIONS_URL"]) as backend:
        app.state.backend = backend
        yield


app = FastAPI(title="Completions", lifespan=lifespan)


def _backend(request: Request) -> ffc.Backend:
    backend: ffc.Backend = request.app.state.backend
    return backend


@app.get("/executions/{execution_id}")
async def outcome(
    request: Request, execution_id: str, timeout: Annotated[float, Query(ge=0, le=300)] = 30.0
) -> dict[str, object]:
    """Answer when it has finished; 404 if there is no such execution, 408 if it takes too long, 422 for no id."""
    try:
        done = await ffc.wait_for_completion(_backend(request), execution_id, timeout=timeout, result=True)
    except ffc.Validation as exc:
        raise HTTPException(422, str(exc)) from exc
    except ffc.NotFound as exc:
        raise HTTPException(404, str(exc)) from exc
    except ffc.EngineError as exc:
        # StateUnknown among them, which is a TimeoutError too, and does not mean "not yet".
        raise HTTPException(503, str(exc)) from exc
    except TimeoutError as exc:
        raise HTTPException(408, str(exc)) from exc
    result = None if done.payload_bytes is None else done.payload_bytes.decode(errors="replace")
    return {"execution_id": done.execution_id, "outcome": done.outcome, "result": result}


@app.get("/tenants/{tenant}/completions")
async def completions(
    request: Request, tenant: str, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """Server-sent events. Each event's id is a cursor: a browser that lost its connection sends the last one back."""
    backend = _backend(request)
    if not isinstance(backend, ffc.ResumableCompletionBackend):
        raise HTTPException(501, "this backend keeps no log, so a lost connection could not be resumed")
    try:
        cursor = ffc.StreamCursor.from_text(last_event_id) if last_event_id else ffc.StreamCursor.empty()
        # Before the answer begins, so that what cannot work is an error and not an empty stream.
        stream = await backend.subscribe_completions_from(cursor, ffc.ScannerFilter(tenant))
    except ffc.CursorExpired as exc:
        raise HTTPException(410, str(exc)) from exc
    except ffc.Validation as exc:
        raise HTTPException(422, str(exc)) from exc
    except ffc.EngineError as exc:
        raise HTTPException(503, str(exc)) from exc
    return StreamingResponse(_events(stream), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _events(stream: ffc.CompletionStream) -> AsyncGenerator[str]:
    try:
        # Tells the browser that it is connected, and how soon to come back.
        yield "retry: 1000\n\n"
        while True:
            try:
                # Cancelling the wait loses nothing (clause 2 of the contract), so a time-out is only a pause.
                async with asyncio.timeout(KEEPALIVE_S):
                    done = await anext(aiter(stream))
            except TimeoutError:
                yield ": still here\n\n"
                continue
            except StopAsyncIteration:
                return
            data = json.dumps({"execution_id": done.execution_id, "outcome": done.outcome, "flow_id": done.flow_id})
            yield f"id: {done.cursor}\nevent: completion\ndata: {data}\n\n"
    finally:
        await stream.aclose()
