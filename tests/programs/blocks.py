"""Blocks in the bridge: until Ctrl-C, or over a fork."""

from __future__ import annotations

import os
import sys

import ffcompletion as ffc

NEVER = "{fp:9}:550e8400-e29b-41d4-a716-446655440098"


def interrupted(what: str, url: str) -> None:
    try:
        with ffc.sync.connect(url) as backend:
            print("ready", flush=True)
            if what == "wait":
                backend.wait_for_completion(NEVER, missing="wait")
            else:
                for completion in backend.subscribe():
                    print(completion)
    except KeyboardInterrupt:
        print("interrupted", flush=True)


def forked(url: str) -> None:
    backend = ffc.sync.connect(url)
    stream = backend.subscribe()
    child = os.fork()
    if child == 0:
        answers = []
        for call in (lambda: backend.wait_for_completion(NEVER), lambda: next(stream), backend.subscribe):
            try:
                call()
            except ffc.Unavailable as exc:
                answers.append("refused" if "fork" in str(exc) else str(exc))
        stream.close()
        backend.close()
        print(f"child:{answers[0] if len(set(answers)) == 1 and len(answers) == 3 else answers}", flush=True)
        with ffc.sync.connect(url) as anew:
            try:
                anew.wait_for_completion(NEVER, timeout=5)
            except ffc.NotFound:
                print("child:anew", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    try:
        backend.wait_for_completion(NEVER, timeout=5)
    except ffc.NotFound:
        backend.close()
        print("parent:ok", flush=True)


if sys.argv[1] == "fork":
    forked(sys.argv[2])
else:
    interrupted(sys.argv[1], sys.argv[2])
