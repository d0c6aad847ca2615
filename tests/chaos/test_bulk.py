"""The same as ``python -m chaos.bulk``, small; and that it would see what it looks for."""
import random

import pytest

from . import bulk
from .bulk import digests, finish, kill_until, start, write_input


def test_a_killed_job_makes_the_same_files(echo_server, tmp_path):
    source, ports = tmp_path / "in.txt", (echo_server.port, echo_server.port_out)
    write_input(source, 4000, seed=1, poison=1)
    for name in ("alone", "disturbed"):
        (tmp_path / name).mkdir()
    finish(start(source, tmp_path / "alone" / "out.npy", ports))
    expected = digests(tmp_path / "alone" / "out.npy")
    assert sorted(expected) == ["", ".job.json", ".rejects.jsonl"]
    killed, ended = kill_until(source, tmp_path / "disturbed" / "out.npy", ports, 3, 1.0, expected,
                               random.Random(1))
    assert killed == 3 and ended >= 1
    with pytest.raises(AssertionError, match="after 0 kills"):
        kill_until(source, tmp_path / "disturbed" / "other.npy", ports, 0, 1.0, {**expected, "": "other"},
                   random.Random(1))


def test_a_job_that_takes_too_much_memory_fails(monkeypatch, capsys):
    monkeypatch.setattr(bulk, "MAX_BYTES", 1_000_000)
    with pytest.raises(SystemExit, match="MB of memory; 1 MB are the most that it may take"):
        bulk.main(["--lines", "10", "--kills", "0"])
    assert "10 lines undisturbed" in capsys.readouterr().out
