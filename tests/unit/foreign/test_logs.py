"""Log lines that cannot hurt, and the line that stands for many."""

from __future__ import annotations

import logging
from collections.abc import Generator

import pytest
from typing_extensions import override

from ffcompletion.foreign.logs import RateLog, logger


class Raises(logging.Handler):
    @override
    def handle(self, record: logging.LogRecord) -> bool:
        raise SystemExit


@pytest.fixture
def name() -> Generator[str]:
    """Of a logger whose handler raises."""
    name, handler = "ffcompletion.test.logs", Raises()
    logging.getLogger(name).addHandler(handler)
    yield name
    logging.getLogger(name).removeHandler(handler)


def test_a_handler_that_raises_ends_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line goes to stderr instead, and is counted."""
    log = logger(name)
    log.warning("what %s", "happened")
    log.log(logging.ERROR, "and more")
    assert log.refused == 2
    assert capsys.readouterr().err == "what happened\nand more\n"
    assert logger(name) is log


def test_a_line_is_where_it_was_said(caplog: pytest.LogCaptureFixture) -> None:
    """Not in the module that says it for others; an exception has its traceback."""
    with caplog.at_level(logging.DEBUG, "ffcompletion.test.lines"):
        log = logger("ffcompletion.test.lines")
        for say in (log.debug, log.info, log.warning, log.error):
            say("x")
        try:
            raise LookupError
        except LookupError:
            log.exception("x")
    assert {record.filename for record in caplog.records} == {"test_logs.py"}
    assert [record.levelno for record in caplog.records] == [10, 20, 30, 40, 40]
    assert caplog.records[-1].exc_info is not None


def test_one_line_stands_for_those_of_its_interval(caplog: pytest.LogCaptureFixture) -> None:
    """By a clock that is moved."""
    # It looks once for each.
    times = iter((0.0, 1.0, 9.9, 10.0, 19.0, 20.0))
    rate = RateLog(logger("ffcompletion.test.rate"), 10.0, lambda: next(times))
    for _ in range(6):
        rate.warning("x")
    assert caplog.messages == [
        "x (1 since the last line)",
        "x (3 since the last line)",
        "x (2 since the last line)",
    ]


def test_errors_are_rated_alike(caplog: pytest.LogCaptureFixture) -> None:
    """Of whatever kind; the traceback is of the one that is told."""
    times = iter((0.0, 1.0, 11.0, 22.0))
    rate = RateLog(logger("ffcompletion.test.rate"), 10.0, lambda: next(times))
    for say in (rate.error, rate.exception, rate.exception, rate.error):
        try:
            raise LookupError
        except LookupError:
            say("x")
    assert [(record.levelno, record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        (40, "x (1 since the last line)", False),
        (40, "x (2 since the last line)", True),
        (40, "x (1 since the last line)", False),
    ]
