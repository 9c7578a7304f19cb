"""The short way round the request loop: one reader at a time, and nobody else starves."""

import os
import resource
import select
import sys
import time
from collections import Counter
from types import FrameType

import pyfuse3
import pytest
import trio
import trio.testing

from kvfs.fuse import busypoll
from kvfs.fuse.busypoll import DOZES, Readiness, Turnstile


@pytest.fixture
def pipe():
    """Yield the reading and the writing end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def test_one_task_at_a_time_goes_through() -> None:
    """One of several tasks is inside at a time, and each gets there."""
    turnstile, inside, seen = Turnstile(), 0, []

    async def enter(number: int) -> None:
        nonlocal inside
        for _ in range(3):
            async with turnstile:
                inside += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            seen.append(number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(enter, number)
    assert sorted(seen) == sorted(list(range(4)) * 3)


async def test_who_is_cancelled_inside_leaves_the_place_free() -> None:
    """A reader that is cancelled does not keep the others out."""
    turnstile = Turnstile()
    with trio.move_on_after(0.01):
        async with turnstile:
            await trio.sleep_forever()
    with trio.fail_after(5):
        async with turnstile:
            pass


@pytest.mark.parametrize("alone", [False, True])
async def test_a_request_that_comes_later_is_waited_for(pipe, alone: bool) -> None:
    """A wait without anything to read ends when a request comes."""
    reading, writing = pipe
    readiness = Readiness(alone=alone)
    await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.wait_readable, reading)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        os.write(writing, b"x")


async def test_on_the_only_processor_it_sleeps_while_it_waits(pipe) -> None:
    """On the only processor it sleeps while it waits, because the program that is to ask needs the processor."""
    reading, writing = pipe
    os.write(writing, b"x")
    asleep = {}
    for alone in (False, True):
        readiness = Readiness(alone=alone)
        os.write(writing, b"x")
        await readiness.wait_readable(reading)
        os.read(reading, 10)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        assert not readiness._looks_again(reading, time.monotonic())
        asleep[alone] = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > before
    assert asleep == {False: False, True: True}


async def test_now_and_then_it_sleeps_for_the_kernel_to_wake_it_beside_its_caller(pipe) -> None:
    """Once in `DOZES` waits it sleeps, and the kernel wakes it beside its caller."""
    reading, writing = pipe
    os.write(writing, b"x")
    readiness = Readiness(alone=False)
    await readiness.wait_readable(reading)
    os.read(reading, 1)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    for _ in range(10 * DOZES):
        assert not readiness._looks_again(reading, time.monotonic())
    slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
    assert 5 <= slept <= 20  # a busy machine takes the processor away before some of the ten


@pytest.mark.parametrize("alone", [False, True])
async def test_others_get_their_turn_under_a_stream_of_requests(pipe, alone: bool) -> None:
    """Other tasks of the process go on, however fast requests come."""
    reading, writing = pipe
    os.write(writing, b"x")  # never read: always ready
    readiness, turns, requests = Readiness(alone=alone), 0, 0

    async def other() -> None:
        nonlocal turns
        for _ in range(20):
            turns += 1
            await trio.lowlevel.checkpoint()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            while turns < 20:
                await readiness.wait_readable(reading)
                requests += 1
    assert requests > 20, "most requests need no turn of the scheduler"


def test_it_is_put_in_place_of_trio_and_taken_out_again() -> None:
    """pyfuse3 finds the short way under the names it uses, and the rest of trio unchanged, until it is taken out."""
    try:
        assert busypoll.enable()
        assert busypoll.enable(), "twice is once"
        assert isinstance(pyfuse3.trio.Lock(), Turnstile)
        assert pyfuse3.trio.open_nursery is trio.open_nursery
        assert pyfuse3.trio.lowlevel.current_task is trio.lowlevel.current_task
    finally:
        busypoll.disable()
    assert pyfuse3.trio is trio


def test_another_pyfuse3_is_left_alone(monkeypatch) -> None:
    """Without the names that it replaces, it replaces nothing."""
    monkeypatch.setattr(pyfuse3, "trio", object())
    assert not busypoll.enable()


async def test_who_takes_the_place_of_a_task_that_waits_does_not_look_again_and_again(
    pipe, monkeypatch
) -> None:
    """Its caller waits for the same thing, so that to look for more would only keep that from its turn."""
    monkeypatch.setattr(busypoll, "CALM", 60.0)
    monkeypatch.setattr(busypoll, "ALERT", 60.0)
    reading, writing = pipe
    os.write(writing, b"x")
    readiness, looks = Readiness(alone=False), Counter()
    turnstile = Turnstile(readiness.relieve)

    def note(frame: FrameType, event: str, function: object) -> None:
        looks[is_relief] += event == "c_call" and function is select.select

    for is_relief in (False, True):
        await readiness.wait_readable(reading)  # so that no turn is due
        os.read(reading, 1)
        async with trio.open_nursery() as nursery:

            async def take_over() -> None:
                async with turnstile:
                    sys.setprofile(note)
                    await readiness.wait_readable(reading)
                    sys.setprofile(None)

            async with turnstile:
                if is_relief:
                    nursery.start_soon(take_over)
                    await trio.testing.wait_all_tasks_blocked()
            if not is_relief:
                nursery.start_soon(take_over)
            await trio.testing.wait_all_tasks_blocked()
            os.write(writing, b"x")
    assert looks[True] <= 1 < looks[False]
