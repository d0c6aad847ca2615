"""Calls are coroutines; a client for threads gets their results without an event loop."""
import asyncio

import pytest
from bert_serving.client.calls import Calls, Response, Stream, iterate, run


async def result(value):
    return value


async def failing():
    raise KeyError("why")


async def suspending():
    await asyncio.sleep(0)


async def counting(end, ended):
    try:
        for number in range(end):
            yield await result(number)
    finally:
        await result(None)
        ended.append(True)


def test_run():
    assert run(result(7)) == 7
    with pytest.raises(KeyError, match="why"):
        run(failing())
    with pytest.raises(AssertionError, match="suspended"):
        run(suspending())


@pytest.mark.parametrize("size", [0, 1, 3])
def test_iterate(size):
    ended = []
    assert list(iterate(counting(size, ended))) == list(range(size))
    assert ended == [True]


def test_iterate_is_ended_by_who_reads_no_further():
    ended = []
    generator = counting(3, ended)
    numbers = iterate(generator)
    assert next(numbers) == 0 and not ended
    numbers.close()
    assert ended == [True]


def test_iterate_that_never_began():
    ended = []
    iterate(counting(3, ended)).close()
    assert not ended


def test_waiting_is_left_to_each_kind_of_client():
    calls = Calls()
    with pytest.raises(NotImplementedError):
        run(calls._sleep(0))
    with pytest.raises(NotImplementedError):
        run(calls._wait(calls._channel, lambda: 1))


def test_nothing_is_opened_by_a_constructor():
    assert Calls()._channel._links is None


def test_arguments_of_encode_async():
    assert Stream(None, 0).max_num_batch is None
    assert Stream(None, 3, is_tokenized=True, show_tokens=True, blocking=False).is_tokenized
    with pytest.raises(TypeError, match="unknown arguments: a, b"):
        Stream(None, None, b=1, a=2)


def test_response_has_its_old_name_too():
    assert Response(1, "vectors", None).content == "vectors"
