"""What never leaves the client, and which servers it does not talk to."""
import pytest
from bert_serving.client import __version__
from bert_serving.client.checks import (check_input, check_version, difference, is_short, server_addresses,
                                        valid_identity)
from bert_serving.client.protocol import PROTOCOL_VERSION
from bert_serving.client.words import json_kind, python_kind

SECRET = "the text itself"


@pytest.mark.parametrize("texts, is_tokenized", [
    (["a"], False), (["a b", "\u6211\u7231"], False), ([["a", "b"], ["c"]], True),
])
def test_good_input(texts, is_tokenized):
    check_input(texts, is_tokenized)


@pytest.mark.parametrize("texts, is_tokenized, complaint", [
    (SECRET, False, "texts is a str"),
    ((SECRET,), False, "texts is a tuple"),
    (None, False, "texts is None"),
    ([SECRET, 1], False, "element 1 is an int"),
    ([SECRET, b"x"], False, "element 1 is bytes"),
    ([[SECRET]], False, "element 0 is a list"),
    ((SECRET,), True, "texts is a tuple"),
    ([["a"], SECRET], True, "element 1 is a str"),
    ([["a"], [SECRET, 1]], True, "element 1 holds an int"),
])
def test_wrong_types(texts, is_tokenized, complaint):
    with pytest.raises(TypeError, match=complaint) as caught:
        check_input(texts, is_tokenized)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("texts, is_tokenized, complaint", [
    ([], False, "empty list"),
    ([SECRET, ""], False, "element 1 is empty or blank"),
    ([SECRET, " \t\n"], False, "element 1 is empty or blank"),
    ([], True, "empty list"),
    ([["a"], []], True, "element 1 is an empty list"),
    ([["a"], [SECRET, " "]], True, "element 1 holds an empty or blank token"),
])
def test_wrong_values(texts, is_tokenized, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        check_input(texts, is_tokenized)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("identity, expected", [
    ("news", b"news"), (b"news", b"news"), ("\u00e9", b"\xc3\xa9"), ("x" * 255, b"x" * 255),
])
def test_identities(identity, expected):
    assert valid_identity(identity) == expected


@pytest.mark.parametrize("nothing", [None, "", b""])
def test_no_identity_is_a_random_one(nothing):
    assert len(valid_identity(nothing)) == 36
    assert valid_identity(nothing) != valid_identity(nothing)


@pytest.mark.parametrize("identity", ["x" * 256, "\u00e9" * 128, b"a\0b"])
def test_impossible_identities(identity):
    with pytest.raises(ValueError, match="1 to 255 bytes without NUL"):
        valid_identity(identity)


def test_identity_of_another_type():
    with pytest.raises(TypeError, match="identity is an int"):
        valid_identity(7)


@pytest.mark.parametrize("config", [
    {"server_version": "1.10.0", "protocol_version": PROTOCOL_VERSION, "bert_serving_version": "2.0.0"},
    {"server_version": "0.1", "protocol_version": PROTOCOL_VERSION - 1},
    {"server_version": "1.5.7"}, {"server_version": "1.7.5"}, {"server_version": "1.10.0"},
    {"server_version": "1.10"}, {"server_version": "1.9.0-rc1"},
])
def test_servers_that_are_understood(config):
    check_version(config)


@pytest.mark.parametrize("config, named", [
    ({"protocol_version": PROTOCOL_VERSION + 1, "bert_serving_version": "3.1.4"}, "3.1.4"),
    ({"server_version": "1.5.6"}, "1.5.6"), ({"server_version": "2.1"}, "2.1"), ({"server_version": None}, "None"),
    ({"server_version": "x"}, "x"), ({}, "None"),
])
def test_servers_that_are_not(config, named):
    with pytest.raises(AttributeError) as caught:
        check_version(config)
    message = str(caught.value)
    assert named in message and __version__ in message and "check_version=False" in message


@pytest.mark.parametrize("text, is_tokenized, short", [
    ("a b c", False, True), ("a b c d", False, False), ("a" * 100, False, True), (" a  b   c ", False, True),
    (["a"] * 3, True, True), (["a"] * 4, True, False),
])
def test_length_counts_words_or_tokens(text, is_tokenized, short):
    assert is_short(text, 3, is_tokenized) is short


# ---- several servers -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("entry, address", [
    ("10.0.0.7", ("10.0.0.7", 5, 6)),
    ("bert.example.org:7", ("bert.example.org", 7, 8)),
    ("localhost:7:9", ("localhost", 7, 9)),
    ("localhost:65535:9", ("localhost", 65535, 9)),
    ("[fe80::1]", ("[fe80::1]", 5, 6)),
    ("[::1]:7", ("[::1]", 7, 8)),
    ("::1", ("::1", 5, 6)),
    ("1:2:3:4:5:6:7:8", ("1:2:3:4:5:6:7:8", 5, 6)),
    (("::1",), ("::1", 5, 6)),
    (("10.0.0.7", 7), ("10.0.0.7", 7, 8)),
    (["10.0.0.7", 7, 9], ("10.0.0.7", 7, 9)),
])
def test_where_servers_are(entry, address):
    assert server_addresses([entry], 5, 6) == [address]
    assert server_addresses(("first", entry), 5, 6) == [("first", 5, 6), address]


@pytest.mark.parametrize("servers, complaint", [
    ("10.0.0.7", "servers is a str; expected a list"),
    ({"10.0.0.7"}, "servers is a set"),
    ([], "empty list"),
    (["10.0.0.7", ("10.0.0.7", 5, 6)], "servers has 10.0.0.7, ports 5 and 6, twice"),
    *[([entry], "expected \"host\", \"host:port\" or") for entry in (
        "", ":5", "host:", "host:x", "host:0", "host:65536", "host:1:2:3", "host:-1", 5, None, (), ("", 5),
        ("host", "5"), ("host", True), "host:65535", (5, "host"), ("host", 1, 2, 3))],
])
def test_no_list_of_servers(servers, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        server_addresses(servers, 5, 6)


def test_difference():
    config = {"model_name": "minilm", "max_seq_len": 25, "engine": "lite", "num_worker": 1}
    assert difference(config, dict(config, engine="graph", num_worker=2, precision="fp32")) is None
    assert difference(config, dict(config, max_seq_len=40)) == "max_seq_len is 25 instead of 40"
    assert difference(dict(config, pooling_layer=[-1]), dict(config, model_name="base", pooling_layer=[-2])) \
        == "model_name is minilm instead of base, pooling_layer is [-1] instead of [-2]"


@pytest.mark.parametrize("kind, sequence, string", [(python_kind, "a list", "a str"),
                                                    (json_kind, "an array", "a string")])
def test_what_is_said_is_in_the_readers_words(kind, sequence, string):
    for texts, is_tokenized, said in [
            (5, False, f"expected {sequence}, each element {string}"), ([5], False, f"expected {string}"),
            ([5], True, f"expected {sequence} of tokens"), ([[5]], True, f"expected each token to be {string}"),
            ([], False, f"an empty {sequence.split()[1]}"), ([[]], True, f"an empty {sequence.split()[1]}")]:
        with pytest.raises((TypeError, ValueError)) as caught:
            check_input(texts, is_tokenized, kind)
        assert said in str(caught.value)


@pytest.mark.parametrize("servers, said", [
    (["http://a"], "servers has 'http://a'"), ([("http://a", 5555)], "a host of servers is the URL 'http://a'"),
    ([("b c", 5555)], "a host of servers is 'b c'")])
def test_hosts_of_servers(servers, said):
    with pytest.raises(ValueError, match=said):
        server_addresses(servers, 5555, 5556)
