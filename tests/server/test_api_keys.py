"""ApiKeys: which are accepted, where they come from, and that no message holds one."""
import pytest
from bert_serving.server import api_keys
from bert_serving.server.errors import ConfigError
from bert_serving.server.api_keys import MAX_CHARACTERS, MIN_CHARACTERS, ApiKeys, collect, is_open_to_others

ONE, OTHER = "one-key-of-this-test", "other-key-of-this-test"


def test_without_keys_the_door_is_open():
    assert not ApiKeys() and ApiKeys().accept("") and ApiKeys().accept("Bearer whatever", "whatever")


@pytest.mark.parametrize("authorization, x_api_key, accepted", [
    (f"Bearer {ONE}", "", True), (f"Bearer {OTHER}", "", True), (f"BEARER   {OTHER}", "", True), ("", ONE, True),
    ("Bearer wrong", ONE, True), (f"Bearer {ONE}", "wrong", True),
    ("", "", False), (ONE, "", False), (f"Bearer{ONE}", "", False), (f"Bearer {ONE[:-1]}", "", False),
    (f"Bearer {ONE}x", "", False), (f"Bearer {ONE.upper()}", "", False), (f"Bearer {ONE},{OTHER}", "", False),
    ("Bearer ", "", False), ("", f"Bearer {ONE}", False), ("Bearer \ud800", "\xff" * 100_000, False)])
def test_accept(authorization, x_api_key, accepted):
    assert ApiKeys([ONE, OTHER]).accept(authorization, x_api_key) is accepted


def test_every_key_is_compared_whichever_is_met(monkeypatch):
    compared = []
    monkeypatch.setattr(api_keys.hmac, "compare_digest", lambda a, b: compared.append(len(a)) or a == b)
    for given in (ONE, OTHER, "wrong", "w" * 10_000):
        compared.clear()
        ApiKeys([ONE, OTHER, ONE + "2"]).accept(f"Bearer {given}")
        assert compared == [32] * 3


def test_keys_of_the_options_and_of_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# of the web shop\n{ONE}\n\n  {OTHER}  \r\n")
    assert collect([ONE + "0"], file) == [ONE + "0", ONE, OTHER]
    assert collect([ONE], None) == [ONE] and collect([], None) == []


@pytest.mark.parametrize("key, said", [
    ("short-" + "s" * (MIN_CHARACTERS - 7),
     f"has {MIN_CHARACTERS - 1} characters, expected {MIN_CHARACTERS} to {MAX_CHARACTERS}"),
    ("k" * (MAX_CHARACTERS + 1), f"has {MAX_CHARACTERS + 1} characters"), ("a key with blanks in it", "holds a blank"),
    ("schlüssel-schlüssel", "not ASCII"), ("nul\0nul\0nul\0nul\0nul\0", "holds a blank or")])
def test_what_is_no_key_is_refused_and_not_shown(tmp_path, key, said):
    (tmp_path / "keys").write_text(f"# one\n{key}\n")
    for given, file, where in (([OTHER, key], None, "key 2 of -api_key"),
                               ([], tmp_path / "keys", "line 2 of -api_key_file")):
        with pytest.raises(ConfigError) as refused:
            collect(given, file)
        message = str(refused.value)
        assert message.startswith(where) and said in message and "secrets.token_urlsafe" in message
        assert key not in message


@pytest.mark.parametrize("content, said", [
    (None, "cannot be read: No such file"), (b"", "holds no key"), (b"# only this\n", "holds no key"),
    (b"\xff\xfe\x00", "is not text")])
def test_a_file_that_holds_no_keys(tmp_path, content, said):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        collect([], file)


@pytest.mark.parametrize("mode, is_open", [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_that_others_can_read(tmp_path, mode, is_open):
    (tmp_path / "keys").touch()
    (tmp_path / "keys").chmod(mode)
    assert is_open_to_others(tmp_path / "keys") is is_open
