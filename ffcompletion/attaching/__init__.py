"""Any table of jobs as a source: triggers announce, inside the transaction that finishes a job. Postgres only.

::

    from ffcompletion.attaching import attach, preset

    attach("postgresql://localhost/app", preset("procrastinate"))
"""

from ffcompletion.attaching.definition import Definition
from ffcompletion.attaching.presets import load_preset, preset, preset_names
from ffcompletion.attaching.scripts import attach_sql, detach_sql
from ffcompletion.attaching.server import Attached, attach, attached, detach

__all__ = [
    "Attached",
    "Definition",
    "attach",
    "attach_sql",
    "attached",
    "detach",
    "detach_sql",
    "load_preset",
    "preset",
    "preset_names",
]
