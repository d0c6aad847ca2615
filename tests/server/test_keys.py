"""A directory of keys: made without writing over anything, read with every mistake named, watched for who is let in."""
import logging
import os
import stat

import pytest
import zmq
import zmq.auth
from bert_serving.client.curve import Keys, find
from bert_serving.server import keys
from bert_serving.server.errors import ConfigError


@pytest.fixture
def directory(tmp_path):
    keys.make(tmp_path / "keys", ["alice"])
    return tmp_path / "keys"


def contents(directory):
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*")
            if path.is_file()}


# ---- making them -----------------------------------------------------------------------------------------------------

def test_what_is_made(tmp_path):
    directory = tmp_path / "new" / "keys"
    assert keys.make(directory, ["alice", "bob"]) == [directory, directory / "alice", directory / "bob"]
    assert set(contents(directory)) == {
        "server.key", "server.key_secret", "client.key_secret", "clients/local.key", "clients/alice.key",
        "clients/bob.key", "alice/server.key", "alice/client.key_secret", "bob/server.key", "bob/client.key_secret"}
    for path in [directory, *directory.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600 if path.suffix == ".key_secret" else 0o644), path


def test_the_keys_belong_together_and_differ(directory):
    server = keys.load(str(directory))
    local, alice = find(directory), find(directory / "alice")
    assert local.server == alice.server == server.public == server.proxy.server
    pairs = [(server.public, server.secret), *((own.public, own.secret) for own in (local, alice, server.proxy))]
    for public, secret in pairs:
        assert zmq.curve_public(secret) == public
    assert len(set(pairs)) == 4
    assert keys.load(str(directory)).proxy != server.proxy, "made for one run"
    assert zmq.auth.load_certificate(directory / "server.key_secret") == (server.public, server.secret)


def test_clients_are_added_later(directory):
    before = contents(directory)
    assert keys.make(directory, ["bob"]) == [directory / "bob"]
    after = contents(directory)
    assert set(after) - set(before) == {"clients/bob.key", "bob/server.key", "bob/client.key_secret"}
    assert {name: after[name] for name in before} == before


def test_hosts_with_workers_have_a_list_of_their_own(directory):
    before = contents(directory)
    assert keys.make(directory, ["gpu-7"], are_workers=True) == [directory / "gpu-7"]
    assert set(contents(directory)) - set(before) == {
        "workers/gpu-7.key", "gpu-7/server.key", "gpu-7/client.key_secret"}
    for path in (directory / "workers", directory / "gpu-7"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    own = find(directory / "gpu-7")
    workers, clients = keys.AllowList(directory, keys.WORKERS), keys.AllowList(directory)
    assert workers.refresh() and clients.refresh()
    assert workers.names == {key_of(own): "gpu-7"} and key_of(own) not in clients.names
    with pytest.raises(ConfigError, match="gpu-7 is there already"):
        keys.make(directory, ["gpu-7"])


@pytest.mark.parametrize("are_workers", [False, True])
def test_workers_is_no_name(directory, are_workers):
    with pytest.raises(ConfigError, match="'workers' is no name"):
        keys.make(directory, ["workers"], are_workers)


@pytest.mark.parametrize("names, told", [
    ([], "server.key_secret is there already; give the name of a client to add"), (["alice"], "alice is there already"),
    (["bob", "alice"], "alice is there already"), (["bob", "bob"], "'bob' is no name for another client"),
    (["local"], "'local' is no name"), (["clients"], "'clients' is no name"), ([""], "'' is no name"),
    (["../bob"], "'../bob' is no name"), (["bob.key"], "'bob.key' is no name"), (["x" * 65], "is no name")], ids=repr)
def test_nothing_is_written_over(directory, names, told):
    before = contents(directory)
    with pytest.raises(ConfigError, match=told):
        keys.make(directory, names)
    assert contents(directory) == before


@pytest.mark.parametrize("there", ["server.key", "client.key_secret", "clients/x.key"])
def test_nor_in_a_directory_that_holds_other_keys(tmp_path, there):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("another's")
    with pytest.raises(ConfigError, match="is there already, but no server.key_secret"):
        keys.make(tmp_path, ["alice"])
    assert contents(tmp_path) == {there: b"another's"}


def test_a_listed_key_is_not_written_over_either(directory):
    (directory / "clients" / "bob.key").write_text("by hand")
    with pytest.raises(ConfigError, match="bob.key is there already"):
        keys.make(directory, ["bob"])
    assert not (directory / "bob").exists()


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write .*file/keys: Not a directory"):
        keys.make(tmp_path / "file" / "keys")


# ---- reading them ----------------------------------------------------------------------------------------------------

def test_no_private_key_is_shown(directory):
    server = keys.load(str(directory))
    assert server.secret.decode() not in repr(server) and server.proxy.secret.decode() not in repr(server)


def test_a_directory_without_keys_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"-curve_dir {tmp_path} has no server.key_secret; make one: "
                                          f"bert-serving-keygen {tmp_path}"):
        keys.load(str(tmp_path))


def test_keys_of_two_pairs_are_noticed(directory):
    path = directory / "server.key_secret"
    other = zmq.curve_keypair()[0].decode()
    path.write_text(path.read_text().replace(find(directory).server.decode(), other))
    with pytest.raises(ConfigError, match="server.key_secret do not belong together"):
        keys.load(str(directory))


def test_no_certificate(directory):
    (directory / "server.key_secret").write_text("nonsense")
    with pytest.raises(ConfigError, match="server.key_secret has no public-key of 40 characters"):
        keys.load(str(directory))


def test_a_private_key_that_others_may_read_is_told_of(directory, caplog):
    keys.load(str(directory))
    assert not caplog.records
    os.chmod(directory / "server.key_secret", 0o644)
    keys.load(str(directory))
    assert "others may read the private key in" in caplog.text


def test_a_zeromq_without_curve_is_named(directory, monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda name: False)
    with pytest.raises(ConfigError, match="built without CURVE"):
        keys.load(str(directory))


# ---- who is let in ---------------------------------------------------------------------------------------------------

@pytest.fixture
def allowed(directory):
    allowed = keys.AllowList(directory)
    assert allowed.refresh()
    return allowed


def key_of(keys: Keys) -> str:
    return keys.public.decode()


def test_those_on_the_list(directory, allowed):
    assert allowed.names == {key_of(find(directory)): "local", key_of(find(directory / "alice")): "alice"}
    assert not allowed.refresh()


def test_added_removed_and_changed(directory, allowed):
    keys.make(directory, ["bob"])
    assert allowed.refresh() and allowed.names[key_of(find(directory / "bob"))] == "bob"
    (directory / "clients" / "alice.key").unlink()
    assert allowed.refresh() and key_of(find(directory / "alice")) not in allowed.names
    (directory / "clients" / "new").write_bytes((directory / "clients" / "local.key").read_bytes())
    os.replace(directory / "clients" / "new", directory / "clients" / "bob.key")
    assert allowed.refresh() and key_of(find(directory / "bob")) not in allowed.names


def test_only_certificates_count_and_one_that_is_none_keeps_out_nobody_else(directory, allowed, caplog):
    (directory / "clients" / "README").write_text("hello")
    (directory / "clients" / "broken.key").write_text("hello")
    (directory / "clients" / "gone.key").symlink_to(directory / "nowhere")
    (directory / "clients" / "folder.key").mkdir()
    assert allowed.refresh() and sorted(allowed.names.values()) == ["alice", "local"]
    assert len(caplog.records) == 3 and "broken.key" in caplog.text
    assert not allowed.refresh(), "told once"


def test_a_list_that_cannot_be_read_stays_as_it_was(directory, allowed, caplog):
    (directory / "clients").rename(directory / "elsewhere")
    assert not allowed.refresh() and not allowed.refresh()
    assert len(allowed.names) == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "told once"
    (directory / "elsewhere").rename(directory / "clients")
    (directory / "clients" / "alice.key").unlink()
    assert allowed.refresh() and len(allowed.names) == 1


def test_without_a_list_nobody_is_let_in(directory):
    for path in (directory / "clients").iterdir():
        path.unlink()
    (directory / "clients").rmdir()
    allowed = keys.AllowList(directory)
    assert not allowed.refresh() and not allowed.names
