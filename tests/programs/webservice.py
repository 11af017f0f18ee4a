"""A service over a backend, under uvicorn as from its command line: ``webservice.py URL PORT``."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

import ffcompletion as ffc
from ffcompletion.web import Grant, completions_app


async def authorize(request: Request) -> Grant | None:
    tenant = request.headers.get("x-tenant")
    return Grant.everything() if tenant == "*" else Grant.of(tenant) if tenant else None


backend = ffc.connect(sys.argv[1])


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[None]:
    async with backend:
        yield


app = Starlette(routes=[Mount("/c", completions_app(backend, authorize=authorize))], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="info")
