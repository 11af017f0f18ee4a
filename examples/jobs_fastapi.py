"""A FastAPI endpoint that answers when a procrastinate job has finished: no polling, and no change to the worker.

ffcompletion attach postgresql://localhost/app procrastinate
DATABASE_URL=postgresql://localhost/app uvicorn examples.jobs_fastapi:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from procrastinate import App, PsycopgConnector

import ffcompletion as ffc

URL = os.environ.get("DATABASE_URL", "postgresql://localhost/app")
jobs = App(connector=PsycopgConnector(conninfo=URL))
backend = ffc.connect(URL)


@jobs.task(name="add")
async def add(a: int, b: int) -> int:
    return a + b


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with jobs.open_async(), backend:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/sums")
async def begin(a: int, b: int) -> dict[str, int]:
    return {"job": await add.defer_async(a=a, b=b)}


@app.get("/jobs/{job}")
async def finished(job: int, timeout: float = 20.0) -> dict[str, str]:
    try:
        done = await ffc.wait_for_completion(backend, ffc.attached_id("procrastinate", job), timeout=timeout)
    except ffc.NotFound:
        raise HTTPException(404, "no such job") from None
    except ffc.StateUnknown as exc:  # a TimeoutError, too
        raise HTTPException(503, "the server does not answer") from exc
    except TimeoutError:
        raise HTTPException(504, "it has not finished yet") from None
    return {"outcome": done.outcome}
