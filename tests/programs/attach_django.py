"""Django tasks' own worker with its database backend: ``schema``, ``story`` or ``hang``."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from psycopg.conninfo import conninfo_to_dict

# Django has no types of its own.
settings: Any = importlib.import_module("django.conf").settings
given = conninfo_to_dict(sys.argv[1])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": given["dbname"], "USER": given.get("user"),
            "HOST": given["host"], "PORT": given.get("port"),
        }
    },
    INSTALLED_APPS=["django_tasks", "django_tasks_db"],
    TASKS={"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}},
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)  # fmt: skip
django: Any = importlib.import_module("django")
django.setup()
management: Any = importlib.import_module("django.core.management")
functions: Any = importlib.import_module("tests.programs.attach_django_tasks")


def main(command: str) -> None:
    if command == "schema":
        management.call_command("migrate", verbosity=0)
        return
    if command == "story":
        functions.succeed.enqueue("é")
        functions.fail.enqueue()
        gone = functions.succeed.enqueue("never")
        models: Any = importlib.import_module("django_tasks_db.models")
        models.DBTaskResult.objects.filter(id=gone.id).delete()
    else:
        functions.hang.enqueue()
    management.call_command("db_worker", batch=True, startup_delay=False, interval=0.1, verbosity=0)


main(sys.argv[2])
