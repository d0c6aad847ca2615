"""What can be the name or address of a host, and what is said of what cannot."""
import pytest
import zmq
from bert_serving.client.hosts import check_host
from bert_serving.client.link import Link
from hypothesis import given, settings, strategies as st


@pytest.mark.parametrize("host", ["localhost", "10.0.0.7", "db-1.example.org", "db-1.example.org.", "a_b", "::1",
                                  "[::1]", "::", "fe80::1%eth0", "::ffff:10.0.0.7", "2001:db8:0:0:0:0:0:1"])
def test_hosts(host):
    check_host("ip", host)
    Link(zmq.PUSH, host, 5555).close()


@pytest.mark.parametrize("host, said", [
    ("", "ip is empty; expected a host name or an IP address, as \"localhost\" or \"10.0.0.7\""),
    (" \t", "ip is blank; expected"),
    ("http://host", "ip is the URL 'http://host'; expected a host name or an IP address, as \"localhost\" or "
                    "\"10.0.0.7\"; give host"),
    ("tcp://host:5555", "ip is the URL 'tcp://host:5555'; expected a host name or an IP address, as \"localhost\" or "
                        "\"10.0.0.7\"; give host, and 5555 as the port"),
    ("https://me@host:8125/encode?a#b", "give host, and 8125 as the port"),
    ("http://[::1]:80/", "give [::1], and 80 as the port"),
    ("host:5555", "ip is 'host:5555'; expected"), ("host:5555", "; give host, and 5555 as the port"),
    (" host ", "; give host"), ("host\n", "; give host"), ("ho st", "ip is 'ho st'; expected"),
    ("host/encode", "'host/encode'"), ("user@host", "'user@host'"), ("*", "ip is '*'"), ("-", "ip is '-'"),
    ("h\0st", r"'h\x00st'"), ("h\u00e4st", "expected a host name"), ("[::1", "'[::1'"), ("[host]", "'[host]'"),
    ("a" * 90 + "/", "aaa...'; expected")], ids=repr)
def test_what_is_no_host(host, said):
    with pytest.raises(ValueError) as caught:
        check_host("ip", host)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("host, said", [(None, "ip is None;"), (5, "ip is an int;"), (b"localhost", "ip is bytes;")])
def test_what_is_no_text(host, said):
    with pytest.raises(TypeError, match=said):
        check_host("ip", host)


@settings(deadline=None, max_examples=300)
@given(st.text("ab0.:-_%[]/@ *;\n", max_size=12))
def test_zeromq_takes_every_host_that_passes(host):
    try:
        check_host("ip", host)
    except ValueError:
        return
    Link(zmq.PUSH, host, 5555).close()
