"""Any table of jobs as a source: triggers announce, inside the transaction that finishes a job. Postgres only.

::

    from ffcompletion.attaching import attach, preset

    attach("postgresql://localhost/app", preset("procrastinate"))
"""

from typing import TYPE_CHECKING

from ffcompletion.attaching.definition import Definition
from ffcompletion.attaching.presets import load_preset, preset, preset_names
from ffcompletion.attaching.scripts import attach_sql, detach_sql
from ffcompletion.contract.errors import Unavailable

if TYPE_CHECKING:
    from ffcompletion.attaching.server import Attached, Recorded, attach, attached, detach

__all__ = [
    "Attached",
    "Definition",
    "Recorded",
    "attach",
    "attach_sql",
    "attached",
    "detach",
    "detach_sql",
    "load_preset",
    "preset",
    "preset_names",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from ffcompletion.attaching import server  # noqa: PLC0415  # loads the driver
    except ImportError as exc:
        raise Unavailable("attaching", f"{exc.name} is not installed; pip install 'ffcompletion[postgres]'") from exc
    return vars(server)[name]
