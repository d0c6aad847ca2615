from tools.peers import host


def test_a_known_processor(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU 5\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n")
    assert "cores, Some CPU 5 (avx2, avx512f, avx512_vnni), " in host.describe(tmp_path / "cpuinfo")


def test_one_that_does_not_tell(tmp_path):
    assert "(unknown), " in host.describe(tmp_path / "nothing")


def test_this_one():
    assert "Python 3." in host.describe()
