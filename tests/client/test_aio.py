"""AsyncBertClient does what BertClient does, for any number of tasks; one that ends at any moment spoils nothing."""
import asyncio
import gc
import inspect
import itertools
import os
import threading

import numpy as np
import pytest
from bert_serving import client as package
from bert_serving.client import BertClient, aio, calls
from bert_serving.client.aio import AsyncBertClient
from bert_serving.client.errors import (DeadlineError, OverloadedError, RequestError, UnauthorizedError,
                                        UnavailableError)
from fake_server import CONFIGS, FakeServer, vectors

PATIENCE_MS = 20_000


@pytest.fixture(autouse=True)
def nothing_is_left(caplog):
    """No thread, no complaint of asyncio's."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "bert-serving-reader"]
    assert not [record for record in caplog.records if record.name == "asyncio" and record.levelname != "DEBUG"]


@pytest.fixture(params=list(CONFIGS))
def any_server(request):
    with FakeServer(request.param) as server:
        yield server


def connect(server, timeout=PATIENCE_MS, **options):
    return AsyncBertClient(**server.address, timeout=timeout, **options)


def run(main):
    """Runs a test, which may leave no task behind."""
    async def checked():
        result = await asyncio.wait_for(main, 40)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result
    return asyncio.run(checked())


async def held(server):
    """The next request that waits in the server, without keeping the loop from running."""
    return await asyncio.get_running_loop().run_in_executor(None, server.next_held)


async def collect(responses):
    return [response async for response in responses]


def rows(responses):
    return np.concatenate([response.embedding for response in responses])


def test_it_is_in_the_package():
    assert package.AsyncBertClient is AsyncBertClient
    with pytest.raises(AttributeError, match="no attribute 'AsyncBert'"):
        package.AsyncBert


def test_everything_a_client_has_with_the_same_arguments():
    sockets = {"context", "sender", "receiver"}
    for name in set(dir(BertClient)) - sockets:
        if name.startswith("_"):
            continue
        ours, theirs = (inspect.getattr_static(owner, name) for owner in (AsyncBertClient, BertClient))
        if not isinstance(theirs, property):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name
    arguments = [list(inspect.signature(owner).parameters.values()) for owner in (AsyncBertClient, BertClient)]
    assert arguments[0] == arguments[1]


# ---- checks ----------------------------------------------------------------------------------------------------------

def test_the_constructor_contacts_nobody(server):
    async def main():
        bc = connect(server)
        assert bc.status["num_request"] == 0 and bc.length_limit == 0
        assert threading.active_count() == threads
        await bc.close()
        assert server.received == []
    threads = threading.active_count()
    run(main())


def test_entering_checks(server):
    async def main():
        async with connect(server) as bc:
            assert bc.length_limit == 25
        assert server.commands() == ["SHOW_CONFIG"]
    run(main())


@pytest.mark.parametrize("enter", [True, False])
def test_a_server_that_it_does_not_understand(enter):
    async def main():
        bc = connect(server)
        with pytest.raises(AttributeError, match="protocol 99"):
            await (bc.__aenter__() if enter else bc.encode(["a"]))
        await bc.close()
    with FakeServer(protocol_version=99) as server:
        run(main())


def test_nobody_there():
    async def main():
        with pytest.raises(DeadlineError, match="never connected to port 1"):
            async with AsyncBertClient("127.0.0.1", 1, 2, timeout=5):
                pass
        bc = AsyncBertClient("127.0.0.1", 1, 2, timeout=5)
        errors = await asyncio.gather(*[bc.encode(["a"]) for _ in range(5)], return_exceptions=True)
        assert [type(error) for error in errors] == [DeadlineError] * 5
        await bc.close()
    run(main())


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_who_is_not_let_in_is_told_so_however_patient(guarded, who):
    async def main():
        bc = connect(guarded, timeout=-1, curve_dir=guarded.door.stranger if who == "stranger" else None)
        calls = [bc.encode(["a"]) for _ in range(5)]
        told = await asyncio.gather(*calls, bc.server_config(), return_exceptions=True)
        assert [type(error) for error in told] == 6 * [UnauthorizedError]
        with pytest.raises(UnauthorizedError):
            await bc.encode(["a"])
        await bc.close()
    run(main())
    assert not guarded.received


def test_who_has_the_right_keys_is_let_in(guarded):
    async def main():
        async with connect(guarded, curve_dir=guarded.door.keys) as bc:
            np.testing.assert_array_equal(await bc.encode(["a"]), vectors(["a"]))
    run(main())


def test_the_configuration_is_asked_for_once_for_all_tasks(server):
    async def main():
        bc = connect(server)
        await asyncio.gather(*[bc.encode(["a"]) for _ in range(50)])
        assert server.commands().count("SHOW_CONFIG") == 1
        await bc.close()
    run(main())


def test_who_asked_for_the_configuration_may_be_cancelled(server):
    async def main():
        bc = connect(server)
        server.stop()
        tasks = [asyncio.ensure_future(bc.encode([text])) for text in "abc"]
        await asyncio.sleep(0)
        tasks[0].cancel()
        server.start()
        assert np.array_equal(await tasks[1], vectors(["b"])) and np.array_equal(await tasks[2], vectors(["c"]))
        await bc.close()
    run(main())


# ---- encode ----------------------------------------------------------------------------------------------------------

def test_encode(any_server):
    async def main():
        async with connect(any_server) as bc:
            assert np.array_equal(await bc.encode(["a", "bc"]), vectors(["a", "bc"]))
            assert np.array_equal(await bc.encode([["x", "y"]], is_tokenized=True), vectors([["x", "y"]]))
            assert await bc.encode(["a"], blocking=False) is None
            assert np.array_equal(await bc.fetch_all(concat=True), vectors(["a"]))
            assert "num_data_request" in (await bc.server_status())["statistic"]
            assert (await bc.server_config())["max_seq_len"] == 25
            assert not bc.pending_request
    run(main())


def test_lists_and_tokens():
    async def main():
        async with connect(server, output_fmt="list") as bc:
            assert await bc.encode(["two words"], show_tokens=True) == (
                vectors(["two words"]).tolist(), [["two", "words"]])
    with FakeServer(show_tokens_to_client=True) as server:
        run(main())


def test_invalid_input_is_not_sent(server):
    async def main():
        async with connect(server) as bc:
            for texts in ("a", [], [1], [" "]):
                with pytest.raises((TypeError, ValueError)):
                    await bc.encode(texts)
        assert server.ids() == []
    run(main())


def test_a_warning_points_at_the_line_that_led_to_it(server):
    async def main():
        async with connect(server) as bc:
            with pytest.warns(UserWarning, match="longer than the max_seq_len=25") as caught:
                await bc.encode(["word " * 30])
            assert caught[0].filename == __file__
    run(main())


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_each_task_gets_its_own_in_any_order(server, order):
    async def main():
        async with connect(server) as bc:
            server.hold()
            await bc.encode(["zero"], blocking=False)
            tasks = [asyncio.ensure_future(bc.encode([text])) for text in ("one", "two", "three")]
            requests = [await held(server) for _ in order]
            for number in order:
                server.answer(requests[number])
            assert np.array_equal(await asyncio.gather(*tasks), [vectors([text]) for text in ("one", "two", "three")])
            assert np.array_equal(await bc.fetch_all(concat=True), vectors(["zero"]))
            assert not bc.pending_request
    run(main())


def test_a_thousand_tasks(server):
    async def main():
        async with connect(server) as bc:
            texts = ["x" * (1 + number % 7) + str(number) for number in range(1000)]
            found = await asyncio.gather(*[bc.encode([text]) for text in texts])
            assert np.array_equal(np.concatenate(found), vectors(texts))
            assert not bc.pending_request
    run(main())


def test_errors_of_the_server(server):
    async def main():
        async with connect(server) as bc:
            server.hold()
            task = asyncio.ensure_future(bc.encode(["a"]))
            server.fail(await held(server), OverloadedError("full", retry_after=3))
            with pytest.raises(OverloadedError, match="full") as caught:
                await task
            assert caught.value.retry_after == 3 and caught.value.failed_request == bc.request_id
    run(main())


def test_timeout(server):
    async def main():
        async with connect(server) as bc:
            server.hold()
            bc.timeout = 10
            with pytest.raises(DeadlineError, match="did not encode 1 text within 10 ms"):
                await bc.encode(["a"])
            await bc.encode(["a"], blocking=False)
            for call in (bc.fetch_all(), collect(bc.fetch()), collect(bc.listen()), collect(bc.encode_async([["a"]]))):
                with pytest.raises(DeadlineError):
                    await call
    run(main())


def test_sending_never_waits(server):
    """Else all tasks would."""
    async def main():
        async with connect(server) as bc:
            server.stop()
            for number in range(1500):  # more than a socket holds by default
                await bc.encode([str(number)], blocking=False)
            server.start()
            assert np.array_equal(await bc.fetch_all(concat=True), vectors([str(number) for number in range(1500)]))
    run(main())


# ---- tasks that end early --------------------------------------------------------------------------------------------

def test_a_cancelled_encode_abandons_its_request(server):
    async def main():
        async with connect(server) as bc:
            server.hold()
            task = asyncio.ensure_future(bc.encode(["late"]))
            request = await held(server)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not bc.pending_request and not bc._reader._by_id
            server.answer(request)
            server.go_on()
            assert np.array_equal(await bc.encode(["next"]), vectors(["next"]))
            assert not bc._channel.exchange.answered
    run(main())


@pytest.mark.parametrize("steps", range(8))
def test_a_cancelled_fetch_loses_nothing(server, steps):
    """Whenever it happens: before the reply, together with it, or after."""
    async def main():
        async with connect(server) as bc:
            server.hold()
            await bc.encode(["a"], blocking=False)
            found = []

            async def fetch():
                async for response in bc.fetch():
                    found.append(response)

            task = asyncio.ensure_future(fetch())
            await asyncio.sleep(0)
            server.answer(await held(server))
            while not bc.pending_response and not task.done():
                await asyncio.sleep(0)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            found += await collect(bc.fetch())
            assert np.array_equal(rows(found), vectors(["a"])) and not bc.pending_request
    run(main())


def test_who_is_cancelled_may_be_woken_too():
    async def main():
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
        futures[1].cancel()
        aio._settle(futures)
        assert futures[1].cancelled() and futures[2].result() is None
    run(main())


def test_wait_for(server):
    async def main():
        async with connect(server, timeout=-1) as bc:
            server.hold()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(bc.encode(["a"]), 0.01)
            assert not bc.pending_request
    run(main())


# ---- streams ---------------------------------------------------------------------------------------------------------

def test_fetch_gives_results_as_they_arrive(server):
    async def main():
        async with connect(server) as bc:
            assert await collect(bc.fetch()) == [] and await bc.fetch_all() is None
            server.hold()
            for text in "abc":
                await bc.encode([text], blocking=False)
            requests = [await held(server) for _ in "abc"]
            results = bc.fetch(delay=0.001)
            for number in (2, 0, 1):
                server.answer(requests[number])
                assert (await results.__anext__()).id == int(requests[number].request_id)
            assert await collect(results) == []
    run(main())


async def asynchronous(batches):
    for batch in batches:
        await asyncio.sleep(0)
        yield batch


@pytest.mark.parametrize("kind", [list, iter, asynchronous])
@pytest.mark.parametrize("max_num_batch", [None, 3])
def test_encode_async(server, kind, max_num_batch):
    async def main():
        async with connect(server) as bc:
            await bc.encode(["mine"], blocking=False)
            texts = "abcdefgh"
            found = await collect(bc.encode_async(kind([[text] for text in texts]), max_num_batch))
            assert np.array_equal(rows(found), vectors(texts[:max_num_batch]))
            assert np.array_equal(await bc.fetch_all(concat=True), vectors(["mine"]))
    run(main())


def test_encode_async_raises_what_the_generator_raises_after_its_results(server):
    async def main():
        async def batches():
            yield ["a"]
            raise KeyError("no more")

        async with connect(server) as bc:
            found = []
            with pytest.raises(KeyError, match="no more"):
                async for response in bc.encode_async(batches()):
                    found.append(response)
            assert len(found) == 1
            with pytest.raises(TypeError, match="unknown arguments: colour"):
                await collect(bc.encode_async([], colour=1))
    run(main())


def test_encode_async_ends_its_task_when_nobody_reads_on(server):
    async def main():
        ended = []

        async def batches():
            try:
                yield ["a"]
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        async with connect(server) as bc:
            tasks = asyncio.all_tasks()
            results = bc.encode_async(batches())
            await results.__anext__()
            assert not ended
            await results.aclose()
            assert ended and asyncio.all_tasks() == tasks
    run(main())


def test_encode_async_does_not_run_far_ahead(server, monkeypatch):
    monkeypatch.setattr(calls, "MAX_IN_FLIGHT", 2)

    async def main():
        async with connect(server) as bc:
            server.hold()
            results = bc.encode_async([[text] for text in "abcdef"])
            first = asyncio.ensure_future(results.__anext__())
            for number in range(6):
                server.answer(await held(server))
                await first
                assert len(bc.pending_request) <= 2
                first = asyncio.ensure_future(results.__anext__())
            with pytest.raises(StopAsyncIteration):
                await first
    run(main())


def test_listen_hears_what_a_clone_asks_for(server, monkeypatch):
    monkeypatch.setattr(calls, "_FIRST_RETRY", 0.02)

    async def main():
        async with connect(server, identity="news") as speaker, connect(server, identity="news") as listener:
            heard = listener.listen(max_num=2)
            first = asyncio.ensure_future(heard.__anext__())
            await asyncio.sleep(0)
            for text in "ab":
                await speaker.encode([text])
            assert np.array_equal(rows([await first] + await collect(heard)), vectors(["a", "b"]))
    run(main())


# ---- loops, threads, processes, ends ---------------------------------------------------------------------------------

def test_several_loops_one_after_another(server):
    bc = connect(server)
    for text in "abc":
        async def main():
            return await asyncio.gather(*[bc.encode([text, str(number)]) for number in range(5)])
        assert np.array_equal(run(main()), [vectors([text, str(number)]) for number in range(5)])
    run(bc.close())


def test_what_one_loop_left_the_next_one_fetches(server):
    bc = connect(server)
    server.hold()
    run(bc.encode(["a"], blocking=False))
    server.answer(server.next_held())
    assert np.array_equal(run(bc.fetch_all(concat=True)), vectors(["a"]))
    run(bc.close())


def test_a_loop_that_is_closed_in_mid_wait(server):
    bc = connect(server)
    server.hold()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(bc.encode(["a"], blocking=False))
    responses = bc.fetch()
    waiting = responses.__anext__()
    task = loop.create_task(asyncio.wait_for(waiting, None))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()  # without cancelling anything, as it should not be done
    server.answer(server.next_held())
    assert np.array_equal(run(bc.fetch_all(concat=True)), vectors(["a"]))
    run(bc.close())
    task._log_destroy_pending = False


def test_loops_of_several_threads(server):
    bc = connect(server)
    wrong = []

    def work(name):
        async def main():
            for number in range(20):
                if not np.array_equal(await bc.encode([name * (number + 1)]), vectors([name * (number + 1)])):
                    wrong.append(name)
        run(main())

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong and not any(thread.is_alive() for thread in threads)
    run(bc.close())


def test_close_wakes_those_who_wait(server):
    async def main():
        bc = connect(server, timeout=-1)
        server.hold()
        await bc.encode(["pending"], blocking=False)
        tasks = [asyncio.ensure_future(call) for call in (bc.encode(["a"]), bc.encode(["b"]), bc.fetch_all())]
        listening = asyncio.ensure_future(collect(bc.listen()))
        for _ in range(3):
            await held(server)
        await bc.close()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [UnavailableError] * 3
        assert await listening == []
        await bc.close()
        with pytest.raises(UnavailableError, match="closed"):
            await bc.encode(["a"])
    run(main())


def test_a_client_that_is_not_closed_ends_its_thread(server, monkeypatch):
    monkeypatch.setattr(aio, "_IDLE_MS", 5)
    bc = connect(server)
    run(bc.encode(["a"]))
    thread, links = bc._reader._thread, bc._channel.links()
    del bc
    gc.collect()
    thread.join(20)
    assert not thread.is_alive() and all(link.socket.closed for link in links)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_process_makes_its_own_connection(server):
    bc = connect(server)
    run(bc.encode(["a"]))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert np.array_equal(asyncio.run(bc.encode(["child"])), vectors(["child"]))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert np.array_equal(run(bc.encode(["parent"])), vectors(["parent"]))
    run(bc.close())


def test_an_identity_that_would_stop_an_original_server():
    async def main():
        async with connect(server, identity="a#b") as bc:
            with pytest.raises(RequestError, match="would stop this server"):
                await bc.encode(["a"])
    with FakeServer("1.10.0") as server:
        run(main())


# ---- a server that goes away and comes back --------------------------------------------------------------------------

WAYS_TO_WAIT = {
    "encode": ("", lambda bc: asyncio.gather(bc.encode(["a"]), bc.encode(["b"]))),
    "fetch": ("ab", lambda bc: collect(bc.fetch())),
    "fetch_all": ("ab", lambda bc: bc.fetch_all()),
    "encode_async": ("", lambda bc: collect(bc.encode_async([["a"], ["b"]]))),
    "listen": ("ab", lambda bc: collect(bc.listen(max_num=2))),
}


@pytest.mark.parametrize("timeout", [PATIENCE_MS, -1])
@pytest.mark.parametrize("way", WAYS_TO_WAIT)
def test_a_restart_is_noticed_by_whoever_waits(server, way, timeout):
    async def main():
        async with connect(server) as bc:
            bc.timeout = timeout
            before, wait = WAYS_TO_WAIT[way]
            server.hold()
            for text in before:
                await bc.encode([text], blocking=False)
            waiting = asyncio.ensure_future(wait(bc))
            for _ in "ab":
                await held(server)
            server.go_on()
            server.received.clear()
            server.restart()
            found = [getattr(result, "embedding", result) for result in await waiting]
            assert np.array_equal(np.concatenate(found), vectors(["a", "b"]))
            assert len(server.ids()) == 2 == len(set(server.ids()))
    run(main())
