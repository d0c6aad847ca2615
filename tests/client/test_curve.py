"""Keys come from certificates in a directory, and what is wrong with them is said without showing them."""
import json
import os

import pytest
import zmq
import zmq.auth
from bert_serving.client import curve
from bert_serving.client.curve import Certificate, Keys, KeysError, as_text, find, is_key, read
from bert_serving.client.errors import BertServingError, UnauthorizedError


@pytest.fixture
def directory(tmp_path):
    """A client's directory, as pyzmq makes certificates; ``(path, server's public key, client's certificate)``."""
    server_public, _ = zmq.auth.create_certificates(tmp_path, "server")
    _, client = zmq.auth.create_certificates(tmp_path, "client")
    os.chmod(client, 0o600)
    return tmp_path, zmq.auth.load_certificate(server_public)[0], Certificate(*zmq.auth.load_certificate(client))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(curve.ENVIRONMENT, raising=False)


def test_certificates_of_pyzmq_are_read(directory):
    path, server, own = directory
    assert find(path) == find(str(path)) == Keys(server, own.public, own.secret, str(path))


def test_pyzmq_reads_ours(tmp_path):
    pair = Certificate(*zmq.curve_keypair())
    for certificate in (pair, Certificate(pair.public)):
        (tmp_path / "x.key").write_text(as_text(certificate, "about"))
        assert zmq.auth.load_certificate(tmp_path / "x.key") == (certificate.public, certificate.secret)
        assert read(tmp_path / "x.key").public == pair.public


def test_without_any_there_are_none():
    assert find(None) is None and find("") is None


def test_the_environment_names_a_directory_for_who_is_given_none(directory, monkeypatch, tmp_path):
    path, server, _ = directory
    monkeypatch.setenv(curve.ENVIRONMENT, str(path))
    assert find(None).server == server
    assert find("") is None
    with pytest.raises(KeysError, match="elsewhere"):
        find(tmp_path / "elsewhere")


def test_keys_themselves_will_do():
    keys = Keys(b"1" * 40, b"2" * 40, b"3" * 40)
    assert find(keys) is keys


def test_keys_cross_to_another_process():
    keys = Keys(b"1" * 40, b"2" * 40, b"3" * 40)
    assert Keys.from_json(json.loads(json.dumps(keys.to_json()))) == keys


def test_no_private_key_is_ever_shown():
    secret = "s" * 40
    assert secret not in repr(Keys(b"1" * 40, b"2" * 40, secret.encode()))
    assert secret not in repr(Certificate(b"1" * 40, secret.encode()))


@pytest.mark.parametrize("missing", [curve.CLIENT_SECRET, curve.SERVER_PUBLIC])
def test_a_file_that_is_not_there_is_named(directory, missing):
    (directory[0] / missing).unlink()
    with pytest.raises(KeysError, match=f"cannot read .*{missing}: No such file.*bert-serving-keygen makes"):
        find(directory[0])


@pytest.mark.parametrize("text, lacks", [
    ("", "public-key"), ('public-key = "short"', "public-key"), ('public-key = "%s"' % ("~" * 40), "public-key"),
    ('public-key = "%s"' % ("#" * 40), "public-key"), ('public-key = "%s"' % ("1" * 40), "secret-key"),
    ('public-key = "%s"\nsecret-key = "%s"' % ("1" * 40, "2" * 39), "secret-key"), ("\0\xff" * 20_000, "public-key")])
def test_a_file_that_is_no_certificate_is_named_and_not_shown(directory, text, lacks):
    path = directory[0] / curve.CLIENT_SECRET
    path.write_text(text, encoding="latin-1")
    with pytest.raises(KeysError, match=f"client.key_secret has no {lacks} of 40 characters") as caught:
        find(directory[0])
    assert not text or text[-10:] not in str(caught.value)


def test_where_a_directory_is_expected_a_file_is_named(directory):
    with pytest.raises(KeysError, match="Not a directory"):
        find(directory[0] / curve.SERVER_PUBLIC)


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
@pytest.mark.parametrize("mode, is_exposed", [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_private_key_that_others_may_read_is_told_of(directory, mode, is_exposed):
    os.chmod(directory[0] / curve.CLIENT_SECRET, mode)
    told = []
    find(directory[0], told.append)
    assert len(told) == is_exposed
    if told:
        assert "client.key_secret (mode %o)" % mode in told[0] and "chmod 600" in told[0]


def test_the_error_is_one_of_the_tree():
    assert issubclass(KeysError, (UnauthorizedError, BertServingError)) and issubclass(KeysError, ValueError)


def test_what_a_key_is():
    for key in zmq.curve_keypair():
        assert is_key(key.decode())
    assert not is_key("1" * 39) and not is_key("1" * 41) and not is_key("\u0661" * 40)
    assert is_key("%nSc0" * 8)      # the largest number of 32 bits
    assert not is_key("%nSc1" * 8)  # and the next
