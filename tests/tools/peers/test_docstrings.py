from tools.peers.docstrings import docstring_sentences, split


def test_split():
    assert split("Do the thing.  Then\nstop!\n\nWhy not go on?") == ["Do the thing.", "Why not go on?"]


def test_code_and_signatures_are_no_sentences():
    assert split(">>> Give me = 3.\n\nfunction(x) -> a list.\n\nA table | of things.\n\nNo full stop here") == []


def test_the_standard_library_has_enough():
    sentences = docstring_sentences()
    assert len(sentences) == len(set(sentences)) > 5000
    assert sentences != sorted(sentences)


def test_where_it_looks(tmp_path):
    (tmp_path / "good.py").write_text('"""This is a module."""\n\n\nclass A:\n    """This is\n    a class.\n    """\n')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "skipped.py").write_text('"""This is a test."""')
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_bytes(b'x = 3 # \xff\n\nasync def f():\n    """This is inside."""')
    assert docstring_sentences(tmp_path) == docstring_sentences(tmp_path)
    assert sorted(docstring_sentences(tmp_path)) == ["This is a class.", "This is a module.", "This is inside."]
