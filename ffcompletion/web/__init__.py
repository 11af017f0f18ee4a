"""Completions over HTTP: server-sent events that resume, and answers that wait. Needs the extra ``web``.

::

    app.mount("/completions", completions_app(backend, authorize=who_may_see_what))
"""

from ffcompletion.web.app import CompletionsApp, completions_app
from ffcompletion.web.grants import Authorize, Grant

__all__ = ["Authorize", "CompletionsApp", "Grant", "completions_app"]
