"""The pytest plugin: in everybody's test runs, so it costs them next to nothing."""

from __future__ import annotations

import subprocess
import sys

import ffcompletion.testing


def test_the_plugin_does_not_load_the_kit() -> None:
    """Nor what the kit is made of; the kit comes when a name of it is asked for."""
    program = (
        "import sys; import ffcompletion.testing.plugin\n"
        "kit = {name for name in sys.modules if name.startswith('ffcompletion.testing')}\n"
        "assert kit == {'ffcompletion.testing', 'ffcompletion.testing.plugin'}, kit\n"
        "assert not {'asyncio', 'hypothesis'} & set(sys.modules)\n"
        "from ffcompletion.testing import BackendContract\n"
        "assert 'ffcompletion.testing.case' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_every_name_is_there() -> None:
    """Though it is loaded when first used; any other name is none."""
    for name in ffcompletion.testing.__all__:
        assert getattr(ffcompletion.testing, name) is not None
        assert name in dir(ffcompletion.testing)
    assert not hasattr(ffcompletion.testing, "no_such_name")
