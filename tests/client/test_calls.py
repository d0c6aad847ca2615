"""Calls are coroutines; a client for threads gets their results without an event loop."""
import asyncio

import numpy as np
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


# ---- a response is an array, too -------------------------------------------------------------------------------------

@pytest.mark.parametrize("embedding, dtype", [(np.ones((2, 3), np.float32), "float32"),
                                              (np.ones((2, 5, 3), np.float16), "float16"),
                                              ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "float64")])
def test_a_response_has_what_an_array_has(embedding, dtype):
    response = Response(7, embedding, None)
    assert (response.shape, response.dtype) == (np.shape(embedding), np.dtype(dtype))
    np.testing.assert_array_equal(np.asarray(response), np.asarray(embedding))
    assert np.array(response, dtype="float64").dtype == np.float64
    assert np.concatenate([response, response]).shape[0] == 4
    request_id, content, tokens = response
    assert (request_id, tokens, len(response)) == (7, None, 3) and content is embedding


def test_an_array_of_a_response_is_a_copy_where_one_is_asked_for():
    embedding = np.ones((2, 3), np.float32)
    response = Response(7, embedding, None)
    assert np.asarray(response) is embedding
    assert not np.shares_memory(np.array(response), embedding)
    assert not np.shares_memory(response.__array__(copy=True), embedding)
    if int(np.__version__.split(".")[0]) >= 2:
        assert np.asarray(response, copy=False) is embedding
        with pytest.raises(ValueError):
            np.asarray(response, dtype="float64", copy=False)
