import numpy as np
import pytest
from tools.peers.driver import EngineProcess, cosines, take_turns
from tools.peers.environments import PeerError


# ---- a process -------------------------------------------------------------------------------------------------------

def test_an_engine_answers(start, make_workload, tmp_path):
    process = start("0.5")
    workload = make_workload([101, 7, 102], [5])
    process.load(workload, tmp_path)
    assert (process.about, process.precision) == ("fake engine 0.5", "fp32")
    assert process.vectors(workload, tmp_path).tolist() == [[101, 3], [5, 1]]
    assert process.seconds(workload) == 0.5


def test_the_median_of_the_repetitions_counts(start, make_workload, tmp_path):
    process, workload = start("0.5"), make_workload([101], repeat=5)
    process.load(workload, tmp_path)
    assert process.seconds(workload) == 0.5


@pytest.mark.parametrize("behaviour, reason", [("broken", "ImportError: no such library; see .*engine.log"),
                                               ("not a number", "exit code 1; see .*engine.log")])
def test_one_that_cannot_compute_says_why(start, make_workload, tmp_path, behaviour, reason):
    workload = make_workload([101])
    with pytest.raises(PeerError, match=reason):
        process = start(behaviour)
        process.load(workload, tmp_path)
        process.seconds(workload)


def test_what_it_wrote_is_in_the_log(start, tmp_path):
    with pytest.raises(PeerError):
        start("broken")
    assert "what went wrong in full" in (tmp_path / "engine.log").read_text()


def test_one_that_says_nothing_is_not_waited_for(start):
    with pytest.raises(PeerError, match="no answer within 0.2 s"):
        start("mute", timeout=0.2)


def test_a_python_that_is_not_there(tmp_path):
    with pytest.raises(PeerError, match="cannot run .*nowhere: No such file"):
        EngineProcess([str(tmp_path / "nowhere")], tmp_path / "log")


def test_a_closed_one_does_not_answer(start):
    process = start()
    process.close()
    with pytest.raises(ValueError):
        process.ask(do="run")


# ---- turns -----------------------------------------------------------------------------------------------------------

def test_each_has_its_turn_in_each_round():
    calls = []
    figures = take_turns({name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}, 3, None,
                         pause=lambda seconds: None)
    assert "".join(calls) == "abc" "cba" "abc"
    assert figures == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_one_that_fails_is_named_and_the_others_go_on():
    failures = []

    def fail():
        raise PeerError("out of memory")

    figures = take_turns({"good": lambda: 1.0, "bad": fail}, 2, lambda *failure: failures.append(failure),
                         pause=lambda seconds: None)
    assert figures == {"good": [1.0, 1.0]}
    assert [(name, str(error)) for name, error in failures] == [("bad", "out of memory")]


def test_an_engine_that_dies_in_the_middle(start, make_workload, tmp_path):
    process, workload = start("dies"), make_workload([101])
    process.load(workload, tmp_path)
    with pytest.raises(PeerError, match="exit code 3"):
        process.seconds(workload)
    with pytest.raises(PeerError, match="exit code 3"):
        process.seconds(workload)


# ---- cosines ---------------------------------------------------------------------------------------------------------

def test_cosines():
    exact = np.array([[1, 0], [1, 1], [0, 2]], np.float32)
    assert cosines(exact * 3, exact) == pytest.approx((1, 1))
    half = 0.5 ** 0.5
    assert cosines(np.array([[1, 0], [1, 0], [0, 1]], np.float32), exact) == pytest.approx((half, (2 + half) / 3))
