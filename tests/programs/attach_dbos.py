"""DBOS's own executor: ``schema``, ``story``, ``results``, ``hang`` or ``recover``."""

from __future__ import annotations

import contextlib
import sys
import time

from dbos import DBOS, DBOSConfig, SetWorkflowID, SetWorkflowTimeout, WorkflowSerializationFormat

config: DBOSConfig = {
    "name": "attached",
    "system_database_url": sys.argv[1],
    "log_level": "ERROR",
    "application_version": "1",
}
DBOS(config=config)
COMMAND = sys.argv[2]


@DBOS.workflow()
def succeed() -> str:
    return "fine"


@DBOS.workflow()
def fail() -> None:
    raise ValueError("as it should")


@DBOS.workflow(serialization_type=WorkflowSerializationFormat.PORTABLE)
def portable(*, fails: bool) -> dict[str, object]:
    if fails:
        raise ValueError("as it should")
    return {"total": 42, "said": "é"}


@DBOS.workflow()
def pickled() -> dict[str, object]:
    return {"total": 42, "said": "é"}


@DBOS.workflow()
def parent() -> str:
    return str(DBOS.start_workflow(succeed).get_result())


@DBOS.workflow()
def slow() -> None:
    for _ in range(600):
        DBOS.sleep(0.05)


@DBOS.workflow()
def hang() -> str:
    if COMMAND == "hang":
        print("hanging", flush=True)
        time.sleep(60)
    return "recovered"


def story() -> None:
    """Each way that a workflow can go."""
    with SetWorkflowID("nightly-1"):
        succeed()
    with contextlib.suppress(ValueError):
        fail()
    parent()
    DBOS.register_queue("mail", polling_interval_sec=0.1)
    DBOS.enqueue_workflow("mail", succeed).get_result()
    with SetWorkflowTimeout(0.2):
        handles = [DBOS.start_workflow(slow)]
    handles.append(DBOS.start_workflow(slow))
    DBOS.cancel_workflow(handles[1].workflow_id)
    for handle in handles:
        with contextlib.suppress(Exception):
            handle.get_result()
    gone = DBOS.start_workflow(slow)
    DBOS.delete_workflow(gone.workflow_id)
    finished = DBOS.start_workflow(succeed)
    finished.get_result()
    DBOS.delete_workflow(finished.workflow_id)


def results() -> None:
    """What is returned and raised, in each way that it is written down."""
    with SetWorkflowID("returns-json"):
        portable(fails=False)
    with SetWorkflowID("returns-pickle"):
        pickled()
    with SetWorkflowID("raises"), contextlib.suppress(Exception):
        portable(fails=True)


DBOS.launch()
if COMMAND == "story":
    story()
elif COMMAND == "results":
    results()
elif COMMAND == "hang":
    with SetWorkflowID("hangs"):
        hang()
elif COMMAND == "recover":
    assert DBOS.retrieve_workflow("hangs").get_result() == "recovered"
DBOS.destroy()
