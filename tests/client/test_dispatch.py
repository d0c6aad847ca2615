"""Whatever servers do, each request is with one of them or waits for one, until it is answered."""
import pytest
from bert_serving.client import dispatch as dispatch_module
from bert_serving.client.dispatch import Dispatch
from hypothesis import given, settings
from hypothesis import strategies as st


def opened(num_servers):
    dispatch = Dispatch(num_servers)
    for server in range(num_servers):
        dispatch.opened(server)
    return dispatch


def sent(dispatch, now=0.0):
    """What is sent now, as {id: server}."""
    return dict(iter(lambda: dispatch.next(now), None))


def test_nothing_is_sent_before_there_is_a_server():
    dispatch = Dispatch(2)
    dispatch.add(1, 1)
    assert dispatch.next(0.0) is None and list(dispatch.waiting) == [1]
    dispatch.opened(1)
    assert dispatch.next(0.0) == (1, 1) and dispatch.next(0.0) is None


def test_the_one_with_the_fewest_unanswered_sentences():
    dispatch = opened(2)
    for request_id, size in enumerate([10, 4, 4, 4, 1]):
        dispatch.add(request_id, size)
    assert sent(dispatch) == {0: 0, 1: 1, 2: 1, 3: 1, 4: 0}
    dispatch.answered(0, 0)
    dispatch.add(5, 1)
    assert sent(dispatch) == {5: 0}


def test_equals_take_turns():
    dispatch = opened(3)
    servers = []
    for request_id in range(6):
        dispatch.add(request_id, 1)
        servers.append(dispatch.next(0.0)[1])
        dispatch.answered(request_id, servers[-1])
    assert servers == [0, 1, 2, 0, 1, 2]


def test_commands_go_to_the_first_that_is_there():
    dispatch = opened(3)
    for request_id in range(3):
        dispatch.add(request_id, 0)
    assert set(sent(dispatch).values()) == {0}
    dispatch.lost(0)
    assert sent(dispatch) == {0: 1, 1: 1, 2: 1}


def test_what_a_lost_server_had_goes_first_and_in_order():
    dispatch = opened(2)
    for request_id in range(4):
        dispatch.add(request_id, 1)
    assert sent(dispatch) == {0: 0, 1: 1, 2: 0, 3: 1}
    dispatch.answered(2, 0)
    dispatch.add(4, 1)
    dispatch.lost(1)
    assert list(dispatch.waiting) == [1, 3, 4]
    assert sent(dispatch) == {1: 0, 3: 0, 4: 0}


def test_one_that_declines_comes_last_until_its_time():
    dispatch = opened(2)
    dispatch.add(1, 1)
    assert dispatch.next(0.0) == (1, 0)
    assert dispatch.declined(1, 0, rests_until=5.0)
    assert dispatch.next(0.0) == (1, 1)
    dispatch.add(2, 1)
    assert dispatch.next(4.9) == (2, 1), "although the other one has nothing to do"
    dispatch.add(3, 1)
    assert dispatch.next(5.1) == (3, 0)


def test_what_all_decline_is_answered_by_the_last():
    dispatch = opened(3)
    dispatch.add(1, 1)
    for expected in (True, True, False):
        _, server = dispatch.next(0.0)
        assert dispatch.declined(1, server, 9.0) is expected
    dispatch.answered(1, server)
    assert not dispatch.waiting and dispatch.next(0.0) is None


def test_what_the_only_one_declines_is_answered():
    dispatch = Dispatch(2)
    dispatch.opened(1)
    dispatch.add(1, 1)
    dispatch.next(0.0)
    assert not dispatch.declined(1, 1, 9.0)


def test_one_that_came_back_is_asked_although_it_declined_before():
    dispatch = opened(2)
    dispatch.add(1, 1)
    assert dispatch.next(0.0) == (1, 0) and dispatch.declined(1, 0, 9.0)
    assert dispatch.next(0.0) == (1, 1)
    dispatch.lost(0)
    dispatch.lost(1)
    dispatch.opened(0)
    assert dispatch.next(0.0) == (1, 0)


def test_one_that_declined_is_asked_again_when_it_is_the_only_one_left():
    dispatch = opened(2)
    dispatch.add(1, 1)
    assert dispatch.next(0.0) == (1, 0) and dispatch.declined(1, 0, 9.0)
    dispatch.next(0.0)
    dispatch.lost(1)
    assert dispatch.next(0.0) is None, "it said when"
    assert dispatch.next(9.0) == (1, 0)


@pytest.mark.parametrize("ends", [False, True])
def test_one_that_ends_makes_requests_wait_for_one_that_is_away(ends):
    dispatch = Dispatch(2)
    dispatch.opened(0)
    dispatch.add(1, 1)
    dispatch.next(0.0)
    assert dispatch.declined(1, 0, 9.0, ends) is ends
    if ends:
        assert dispatch.next(0.0) is None
        dispatch.opened(1)
        assert dispatch.next(0.0) == (1, 1)


def test_when_all_end_that_is_the_answer():
    dispatch = opened(2)
    dispatch.add(1, 1)
    for expected in (True, False):
        _, server = dispatch.next(0.0)
        assert dispatch.declined(1, server, 9.0, ends=True) is expected


def test_a_late_refusal_of_what_another_one_has_is_none():
    dispatch = opened(2)
    dispatch.add(1, 1)
    assert dispatch.next(0.0) == (1, 0) and dispatch.declined(1, 0, 9.0)
    assert dispatch.next(0.0) == (1, 1)
    assert dispatch.declined(1, 0, 9.0), "it was sent back already"


def test_one_that_lets_time_run_out_comes_last_until_it_replies():
    dispatch = opened(2)
    dispatch.add(1, 1)
    assert dispatch.next(0.0) == (1, 0)
    dispatch.abandon(1)
    for request_id in (2, 3, 4):
        dispatch.add(request_id, 1)
    assert set(sent(dispatch, 1e9).values()) == {1}
    dispatch.answered(1, 0)
    dispatch.add(5, 1)
    assert sent(dispatch) == {5: 0}


def test_what_waits_can_be_abandoned():
    dispatch = Dispatch(1)
    dispatch.add(1, 1)
    dispatch.abandon(1)
    dispatch.opened(0)
    assert dispatch.next(0.0) is None and not dispatch.waiting


def test_a_server_has_so_many_at_most(monkeypatch):
    monkeypatch.setattr(dispatch_module, "MAX_UNANSWERED", 2)
    dispatch = opened(2)
    for request_id in range(6):
        dispatch.add(request_id, 1)
    assert len(sent(dispatch)) == 4 and list(dispatch.waiting) == [4, 5]
    dispatch.answered(1, 1)
    assert dispatch.next(0.0) == (4, 1)


EVENTS = st.lists(st.tuples(st.sampled_from(["add", "answer", "decline", "lose", "open", "abandon", "late"]),
                            st.integers(0, 2), st.integers(0, 9)), max_size=60)


@pytest.mark.parametrize("num_servers", [1, 3])
@settings(max_examples=60)
@given(events=EVENTS)
def test_each_is_in_one_place_until_it_is_answered(num_servers, events):
    dispatch = Dispatch(num_servers)
    due, num_asked, holders = set(), 0, {}
    for name, server, which in events:
        server %= num_servers
        held = sorted(request_id for request_id in due if holders.get(request_id) == server)
        if name == "add":
            num_asked += 1
            due.add(num_asked)
            dispatch.add(num_asked, which % 3)
        elif name == "answer" and held:
            dispatch.answered(held[which % len(held)], server)
            due.remove(held[which % len(held)])
        elif name == "decline" and held:
            request_id = held[which % len(held)]
            if not dispatch.declined(request_id, server, 1.0, ends=which % 2 == 0):
                dispatch.answered(request_id, server)
                due.remove(request_id)
        elif name == "lose":
            dispatch.lost(server)
        elif name == "open":
            dispatch.opened(server)
        elif name == "abandon" and due:
            request_id = sorted(due)[which % len(due)]
            dispatch.abandon(request_id)
            due.remove(request_id)
        elif name == "late" and num_asked:
            dispatch.answered(num_asked + 1, server)
        sent(dispatch)
        holders = {request_id: index for index, lane in enumerate(dispatch.lanes) for request_id in lane.unanswered}
        assert sum(len(lane.unanswered) for lane in dispatch.lanes) == len(holders), "with one server at a time"
        assert set(dispatch.waiting) | set(holders) >= due
        assert not set(dispatch.waiting) & set(holders)
        assert all(lane.load == sum(lane.unanswered.values()) for lane in dispatch.lanes)
    sent(dispatch, float("inf"))
    assert not dispatch.waiting or not any(lane.open for lane in dispatch.lanes), "nothing waits without need"
