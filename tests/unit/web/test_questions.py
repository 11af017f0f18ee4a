"""What clients ask together is asked once, and each has its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import ffcompletion as ffc
from ffcompletion.web.questions import Questions

IDS = [ffc.ExecutionId(f"{{fp:7}}:550e8400-e29b-41d4-a716-44665544{number:04d}") for number in range(2_500)]


class Reader:
    """Knows every id but the first; the question about the last fails, and of one the answer is too short."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    async def describe_execution(self, execution_id: str, /, *, result: bool = False) -> ffc.ExecutionSnapshot | None:
        raise NotImplementedError

    async def describe_executions(
        self, execution_ids: Sequence[str], /, *, result: bool = False
    ) -> Sequence[ffc.ExecutionSnapshot | None]:
        assert not result
        self.asked.append(execution_ids)
        await asyncio.sleep(0)
        if IDS[-1] in execution_ids:
            raise ffc.Transport("here", "gone")
        known = [id_ for id_ in execution_ids if id_ != IDS[-2]]
        return [
            None if id_ == IDS[0] else ffc.ExecutionSnapshot(execution_id=ffc.ExecutionId(id_), namespace=id_)
            for id_ in known
        ]


async def test_a_thousand_at_a_time_and_the_same_once() -> None:
    questions = Questions(reader := Reader())
    found = await asyncio.gather(*(questions.describe(id_) for id_ in [*IDS[:1_500], *IDS[:10]]))
    assert [None if one is None else one.namespace for one in found] == [None, *IDS[1:1_500], None, *IDS[1:10]]
    assert list(map(len, reader.asked)) == [1_000, 500]
    await questions.describe(IDS[1])
    assert len(reader.asked) == 3, "nothing is remembered"


async def test_a_failure_is_theirs_whose_question_it_was() -> None:
    questions = Questions(reader := Reader())
    first = asyncio.create_task(questions.describe(IDS[1]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = [asyncio.create_task(questions.describe(id_)) for id_ in (IDS[2], IDS[-1])]
    await asyncio.sleep(0)
    # Who has gone spoils it for nobody.
    second[1].cancel()
    answer = await first
    assert answer is not None
    with pytest.raises(ffc.Transport):
        await second[0]
    assert len(reader.asked) == 2


async def test_with_its_loop_it_ends() -> None:
    questions = Questions(Reader())
    waiting = asyncio.create_task(questions.describe(IDS[1]))
    await asyncio.sleep(0)
    (asking,) = (task for task in asyncio.all_tasks() if task.get_name() == "ffcompletion-web-ask")
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking, waiting])
    assert asking.cancelled() and waiting.cancelled()


async def test_an_answer_that_is_none_leaves_nobody_waiting() -> None:
    """A reader of somebody's own may answer what it likes."""
    questions = Questions(Reader())
    found = await asyncio.gather(*(questions.describe(id_) for id_ in (IDS[1], IDS[-2])), return_exceptions=True)
    assert isinstance(found[0], ffc.ExecutionSnapshot)
    assert isinstance(found[1], ValueError)
