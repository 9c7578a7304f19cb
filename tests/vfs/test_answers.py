"""Answers that are there, and answers that come: whoever asks goes on in the same words."""

from types import CoroutineType

import pytest
import trio

from kvfs.vfs.answers import Answer, answered, then


async def later(value: int) -> int:
    """An answer that comes after a turn of the scheduler."""
    await trio.lowlevel.checkpoint()
    return value


async def test_what_is_there_is_gone_on_with_at_once() -> None:
    """No coroutine is made, so that nobody has to await one."""
    assert then(1, lambda found: found + 1) == 2
    assert await answered(3) == 3


async def test_what_comes_is_gone_on_with_when_it_is_there() -> None:
    """Nothing is done before; then it is done once."""
    done: list[int] = []
    answer = then(later(1), done.append)
    assert isinstance(answer, CoroutineType)
    assert done == []
    await answer
    assert done == [1]
    assert await answered(later(4)) == 4


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
async def test_steps_follow_each_other_whichever_of_them_waits(first: bool, second: bool) -> None:
    """A step may answer, or hand out what waits, after either kind."""

    def step(found: int) -> Answer[int]:
        return later(found * 2) if second else found * 2

    assert await answered(then(later(5) if first else 5, step)) == 10


async def test_an_error_comes_where_the_answer_would_have() -> None:
    """At the call, or at the await."""

    def fails(found: int) -> int:
        raise LookupError(found)

    with pytest.raises(LookupError, match="1"):
        then(1, fails)
    answer = then(later(2), fails)
    assert isinstance(answer, CoroutineType)
    with pytest.raises(LookupError, match="2"):
        await answer
