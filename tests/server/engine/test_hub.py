"""Getting models of the Hugging Face Hub, of a small imitation of it."""
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from bert_serving.server.engine import hub
from bert_serving.server.errors import ModelError

from .fake_hub import COMMIT, FakeHub, Repo

BERT = {"model_type": "bert", "vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "max_position_embeddings": 16}
ENCODER = {"config.json": json.dumps(BERT).encode(), "vocab.txt": b"[PAD]\n", "model.safetensors": b"w" * 50_000}
OTHERS = {name: b"?" for name in ("README.md", ".gitattributes", "onnx/model.onnx", "openvino/openvino_model.bin",
                                  "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.gguf",
                                  "modeling_own.py", "data/train.json")}


def modules(*kinds_and_paths):
    return json.dumps([{"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
                       for index, (kind, path) in enumerate(kinds_and_paths)]).encode()


# ---- names -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, repo, revision", [
    ("org/name", "org/name", None), ("bert-base-uncased", "bert-base-uncased", None), ("a/b@main", "a/b", "main"),
    ("a/b@refs/pr/1", "a/b", "refs/pr/1"), ("b@v1.5", "b", "v1.5"), (f"a/b@{COMMIT}", "a/b", COMMIT),
    ("a/b@feature--x", "a/b", "feature--x"), ("jinaai/jina-embeddings-v3", "jinaai/jina-embeddings-v3", None)])
def test_a_name(text, repo, revision):
    assert hub.HubName.parse(text) == hub.HubName(repo, revision) and str(hub.HubName.parse(text)) == text


@pytest.mark.parametrize("text", ["", "/a", "a/", "a/b/c", "../b", "a/..", "./a", "~/a", "a--b", "a..b", "-a", "a/b.",
                                  "a@", "a/b@../c", "a/b@c..d", "a b", "a\n", "ä/b", "a" * 97, "http://a/b", "a/b@-c"])
def test_what_is_no_name(text):
    assert hub.HubName.parse(text) is None
    with pytest.raises(ModelError, match="is no name of the Hugging Face Hub"):
        hub.get(text)


# ---- what is needed --------------------------------------------------------------------------------------------------

def needed(files):
    """And which files were read to know it."""
    read = []

    def opened(file):
        read.append(file)
        return json.loads(files[file])
    return hub.needed("a/b", files, opened), read


def test_only_what_is_read_is_needed():
    assert needed(ENCODER | OTHERS) == (["config.json", "vocab.txt", "model.safetensors"], ["config.json"])


def test_the_folders_that_modules_name_are_needed():
    found, read = needed({
        **OTHERS, **ENCODER, "tokenizer.json": b"", "sentence_bert_config.json": b"",
        "config_sentence_transformers.json": b"",
        "modules.json": modules(("Transformer", ""), ("Pooling", "7_Pooling"), ("Dense", "2_Dense"),
                                ("Normalize", "3_Norm")),
        "7_Pooling/config.json": b"", "1_Pooling/config.json": b"", "2_Dense/config.json": b"", "3_Norm/README.md": b"",
        "2_Dense/model.safetensors": b"", "2_Dense/pytorch_model.bin": b""})
    assert read == ["modules.json", "config.json"]
    assert found == ["config.json", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json",
                     "tokenizer.json", "vocab.txt", "2_Dense/config.json", "7_Pooling/config.json",
                     "model.safetensors", "2_Dense/model.safetensors"]


def test_an_encoder_in_a_folder_of_its_own():
    found, read = needed({"modules.json": modules(("Transformer", "0_Transformer"), ("Pooling", "1_Pooling")),
                          **{f"0_Transformer/{name}": content for name, content in ENCODER.items()},
                          "1_Pooling/config.json": b"", "model.safetensors": b"", "config.json": b"not read"})
    assert "0_Transformer/model.safetensors" in found and "model.safetensors" not in found
    assert read == ["modules.json", "0_Transformer/config.json"]


@pytest.mark.parametrize("folder", ["", ".", "./", "0_StaticEmbedding"])
def test_a_static_model_is_fetched_without_its_configuration_being_read(folder):
    prefix = f"{folder}/" if folder.startswith("0") else ""
    files = {"modules.json": modules(("StaticEmbedding", folder), ("Normalize", "1_Norm")), "1_Norm/config.json": b"",
             "config.json": b"not read", f"{prefix}tokenizer.json": b"", f"{prefix}model.safetensors": b""}
    found, read = needed(files)
    assert set(found) == set(files) and read == ["modules.json"]


def test_a_static_model_without_modules():
    files = {"config.json": b'{"model_type": "model2vec"}', "tokenizer.json": b"", "model.safetensors": b""}
    assert needed(files) == (["config.json", "tokenizer.json", "model.safetensors"], ["config.json"])


@pytest.mark.parametrize("kind", ["Normalize", "Dropout"])
def test_a_folder_that_holds_nothing_is_not_on_the_hub(kind):
    listed = modules(("Transformer", ""), ("Pooling", "1_Pooling"), (kind, "2_Module"))
    found, _ = needed({**ENCODER, "modules.json": listed, "1_Pooling/config.json": b""})
    assert set(found) == {*ENCODER, "modules.json", "1_Pooling/config.json"}


def test_a_pooling_that_no_modules_name_is_needed():
    """It is read, so the model would be another one without it."""
    assert "1_Pooling/config.json" in needed({**ENCODER, "1_Pooling/config.json": b""})[0]


def test_several_files_of_weights():
    index = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).encode()
    files = {**ENCODER, "model.safetensors.index.json": index, "model-1-of-2.safetensors": b"",
             "model-2-of-2.safetensors": b"", "model-3-of-2.safetensors": b"", "pytorch_model.bin": b""}
    assert needed(files)[0][-1] == "model.safetensors", "one file is enough"
    del files["model.safetensors"]
    assert needed(files)[0][-3:] == ["model.safetensors.index.json", "model-1-of-2.safetensors",
                                     "model-2-of-2.safetensors"]
    del files["model-1-of-2.safetensors"]
    with pytest.raises(ModelError, match="a/b: its model.safetensors.index.json names model-1-of-2.safetensors, which"):
        needed(files)


def test_a_pickle_where_there_is_nothing_better():
    files = {**ENCODER, "pytorch_model.bin": b""}
    assert "pytorch_model.bin" not in needed(files)[0]
    del files["model.safetensors"]
    assert needed(files)[0][-1] == "pytorch_model.bin"


@pytest.mark.parametrize("change, told", [
    ({"config.json": json.dumps({"model_type": "t5"}).encode()},
     "a/b: its config.json does not describe a model that can be served: model_type is 't5'"),
    ({"config.json": json.dumps({"model_type": "bert", "vocab_size": 9, "auto_map": {"AutoModel": "x.Y"}}).encode()},
     "auto_map names code of the model's own, 'x.Y', which is not run"),
    ({"config.json": json.dumps({"model_type": "bert", "vocab_size": 9, "architectures": ["HF_ColBERT"]}).encode()},
     "architectures names the class 'HF_ColBERT'"),
    ({"config.json": b"[]"}, "its config.json is not a JSON object"),
    ({"config.json": None}, "has no config.json, so it is no model .*; it holds .gitattributes, README.md, .* 6 more"),
    ({"config.json": None, "adapter_config.json": b"{}"}, "is an adapter .LoRA. without its base"),
    ({"vocab.txt": None}, "has none of tokenizer.json, vocab.txt, vocab.json"),
    ({"model.safetensors": None, "pytorch_model.bin": None},
     "has neither model.safetensors nor pytorch_model.bin; it holds .gitattributes, README.md"),
    ({"model.safetensors": None, "model.safetensors.index.json": b"[]"},
     "its model.safetensors.index.json has no weight_map"),
    ({"model.safetensors": None, "model.safetensors.index.json": b'{"weight_map": {"a": "../../evil"}}'},
     "names ../../evil, which"),
    ({"modules.json": b"{}"}, "its modules.json is not a list of modules"),
    ({"modules.json": b'[{"type": 1}]'}, "its modules.json is not a list of modules"),
    ({"modules.json": modules(("Transformer", ""), ("Pooling", "1_Pooling"))}, "names the folder 1_Pooling, which"),
    ({"modules.json": modules(("MLMTransformer", ""), ("SpladePooling", "1_Pooling"))},
     r"a/b: its modules.json lists 'MLMTransformer' \(sparse vectors\), which is not computed here"),
    ({"modules.json": b'[{"type": "custom_st.Transformer", "path": ""}]'}, "which is code of the model's own, and no"),
    ({"modules.json": modules(("Transformer", ""), ("Pooling", "../x")), "../x/config.json": b""},
     "names the folder ../x, which it does not have")])
def test_what_cannot_be_served_is_told_before_weights_are_fetched(fake_hub, change, told):
    files = {name: content for name, content in (ENCODER | OTHERS | change).items() if content is not None}
    with pytest.raises(ModelError, match=told):
        needed(files)
    fake_hub.repos["a/b"] = Repo(files)
    with pytest.raises(ModelError, match=told):
        hub.get("a/b")
    assert set(fake_hub.fetched()) <= {"config.json", "modules.json", "model.safetensors.index.json"}


def test_hostile_names_are_left_alone():
    hostile = {"../vocab.txt": b"", "/vocab.txt": b"", "a/../config.json": b"", "..\\config.json": b""}
    assert needed(ENCODER | hostile)[0] == ["config.json", "vocab.txt", "model.safetensors"]


def test_a_huge_configuration_is_not_fetched(fake_hub):
    fake_hub.repos["a/b"] = Repo(ENCODER, sizes={"config.json": 200_000_000})
    with pytest.raises(ModelError, match="a/b: its config.json has 200 MB, expected 10 at most"):
        hub.get("a/b")
    assert fake_hub.fetched() == []


def test_a_configuration_that_is_no_json(fake_hub):
    fake_hub.repos["a/b"] = Repo({**ENCODER, "config.json": b"{"})
    with pytest.raises(ModelError, match="a/b: its config.json cannot be read: "):
        hub.get("a/b")


# ---- getting it ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["org/name", "bare", "org/name@v1", "bare@refs/pr/1", f"bare@{COMMIT}"])
def test_a_model_is_fetched_once(fake_hub, name, tmp_path, caplog):
    caplog.set_level("INFO")
    fake_hub.repos[name.partition("@")[0]] = Repo(ENCODER | OTHERS)
    assert not hub.is_at_hand(name)
    path = hub.get(name)
    assert path.is_relative_to(tmp_path / "hub") and path.name == COMMIT
    assert {file.name: file.read_bytes() for file in path.iterdir()} == ENCODER
    assert all(file.is_symlink() for file in path.iterdir()), "it is the cache of all programs with that library"
    assert fake_hub.fetched() == ["config.json", "vocab.txt", "model.safetensors"]
    assert caplog.messages == [f"fetching {name} from the Hugging Face Hub ({fake_hub.endpoint}): 3 files, 0 MB",
                               f"{name} is in {path}"]
    fake_hub.asked.clear()
    assert hub.is_at_hand(name) and hub.get(name) == path and fake_hub.asked == []


def test_an_update_takes_what_changed(fake_hub):
    fake_hub.repos["a/b"] = repo = Repo(dict(ENCODER))
    before = hub.get("a/b")
    repo.commit, repo.files["vocab.txt"] = "f" * 40, b"other"
    assert hub.get("a/b") == before, "a restart serves what was served before"
    after = hub.get("a/b", update=True)
    assert after.name == "f" * 40 and (after / "vocab.txt").read_bytes() == b"other" and hub.get("a/b") == after
    assert fake_hub.fetched().count("model.safetensors") == 1, "the cache has it"


def test_a_file_that_goes_is_fetched_again(fake_hub):
    fake_hub.repos["a/b"] = Repo(ENCODER)
    (hub.get("a/b") / "vocab.txt").unlink()
    assert not hub.is_at_hand("a/b")
    assert (hub.get("a/b") / "vocab.txt").is_file()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"directory": 1, "files": []}',
                                     b'{"directory": "/", "files": 1}'])
def test_a_damaged_note_is_as_none(fake_hub, tmp_path, content):
    fake_hub.repos["a/b"] = Repo(ENCODER)
    path = hub.get("a/b")
    note = tmp_path / "cache" / "bert-serving" / "hub" / "a--b@main.json"
    assert note.is_file()
    note.write_bytes(content)
    assert not hub.is_at_hand("a/b") and hub.get("a/b") == path


def test_a_cache_that_cannot_be_noted_in(fake_hub, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "bert-serving").write_text("a file is in the way")
    fake_hub.repos["a/b"] = Repo(ENCODER)
    assert hub.get("a/b").is_dir() and "cannot note in" in caplog.text


def test_a_cache_that_cannot_be_written(fake_hub, tmp_path):
    fake_hub.repos["a/b"] = Repo(ENCODER)
    (tmp_path / "hub").write_text("a file is in the way")
    with pytest.raises(ModelError, match="^cannot write a/b to the cache: .*; make room, or set HF_HOME"):
        hub.get("a/b")


# ---- who does not give it --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, token, told", [
    ("no/where", None, "there is no directory no/where, and the Hugging Face Hub .* has no such model, or does "
                       "not show it to callers without a token; check the name or the path, and for a private"),
    ("nowhere", "hf_good", "has no such model, or does not show it to your token"),
    ("own/private", None, "has no such model, or does not show it to callers without a token"),
    ("gated/model", None, r"does not give gated/model to callers without a token \(401\): it is gated; accept its"),
    ("gated/model", "hf_good", r"does not give gated/model to your token \(403\): it is gated"),
    ("a/b", "hf_bad", r"does not give a/b to your token \(401\); set HF_TOKEN to a valid token"),
    ("a/b@v9", None, "has no revision v9 of a/b; give a branch, tag or commit")])
def test_the_hub_says_no(fake_hub, monkeypatch, name, token, told):
    fake_hub.repos |= {"a/b": Repo(ENCODER), "own/private": Repo(ENCODER, private=True),
                       "gated/model": Repo(ENCODER, gated=True)}
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match=told) as error:
        hub.get(name)
    assert "\n" not in str(error.value) and fake_hub.fetched() == [] and fake_hub.tokens == {token}


def test_a_token_opens(fake_hub, monkeypatch):
    fake_hub.repos |= {"own/private": Repo(ENCODER, private=True), "gated/accepted": Repo(ENCODER, gated=True)}
    monkeypatch.setenv("HF_TOKEN", FakeHub.TOKEN)
    assert hub.get("own/private").is_dir() and hub.get("gated/accepted").is_dir()


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_the_hub_answers_with_an_error(fake_hub, status):
    fake_hub.status = status
    told = "to callers without a token .403." if status == 403 else f"answers with status {status}; try again later"
    with pytest.raises(ModelError, match=told):
        hub.get("a/b")


def test_a_file_is_listed_but_not_there(fake_hub, monkeypatch):
    fake_hub.repos["a/b"] = repo = Repo(dict(ENCODER))
    monkeypatch.setattr(hub, "check_config", lambda name, values: repo.files.pop("vocab.txt"))
    with pytest.raises(ModelError, match="lists vocab.txt of a/b, but does not have it"):
        hub.get("a/b")


# ---- who cannot be reached -------------------------------------------------------------------------------------------

def test_nobody_listens(fake_hub):
    fake_hub.close()
    with pytest.raises(ModelError, match=r"the Hugging Face Hub \(http://127.0.0.1:\d+\) is not reachable: Connection "
                                         "refused; check the network and HF_ENDPOINT, or give a directory"):
        hub.get("a/b")


def test_there_is_no_such_host(fake_hub, monkeypatch):
    def resolve(host, *args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ModelError, match="is not reachable: Name or service not known; check"):
        hub.get("a/b")


@pytest.fixture
def short(fake_hub, monkeypatch):
    """Nobody waits long for an answer."""
    from huggingface_hub import constants, file_download
    for module in (constants, file_download):
        for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
            monkeypatch.setattr(module, name, 0.2, raising=False)


def test_a_resolver_that_never_answers(fake_hub, short, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: fake_hub.closing.wait(30))
    with pytest.raises(ModelError, match="is not reachable: no answer within 0.4 s"):
        hub.get("a/b")


def test_an_answer_that_never_comes(fake_hub, short):
    fake_hub.repos["a/b"] = Repo(ENCODER, stalls=("",))
    with pytest.raises(ModelError, match="is not reachable: (timed out|no answer within 0.4 s)"):
        hub.get("a/b")


def test_what_is_no_hub(fake_hub):
    fake_hub.status = 200
    with pytest.raises(ModelError, match="is not reachable: .*; check the network and HF_ENDPOINT"):
        hub.get("a/b")


@pytest.fixture
def impatient(monkeypatch):
    """The library does not wait between its tries."""
    from types import SimpleNamespace

    from huggingface_hub import file_download
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))


def test_weights_that_never_come(fake_hub, short, impatient):
    fake_hub.repos["a/b"] = Repo(ENCODER, stalls=("model.safetensors",))
    told = "broke off when model.safetensors of a/b was fetched: timed out; try again: what was fetched is kept"
    with pytest.raises(ModelError, match=told) as error:
        hub.get("a/b")
    assert "\n" not in str(error.value) and not hub.is_at_hand("a/b")


def test_a_broken_download_goes_on_where_it_was(fake_hub, impatient, monkeypatch):
    for module in ("constants", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.DOWNLOAD_CHUNK_SIZE", 1000, raising=False)
    fake_hub.repos["a/b"] = Repo(ENCODER, breaks={"model.safetensors": 20_000})
    try:
        path = hub.get("a/b")
    except ModelError:                                 # Earlier versions of the library do not try again by themselves.
        path = hub.get("a/b")
    assert (path / "model.safetensors").read_bytes() == ENCODER["model.safetensors"]
    ranges = [part for method, path, part in fake_hub.asked if method == "GET" and path.endswith(".safetensors")]
    assert ranges == [None, "bytes=20000-"]


@pytest.mark.parametrize("why", ["offline", "unreachable", "failing"])
def test_what_was_fetched_is_served_without_the_hub(fake_hub, why, caplog):
    caplog.set_level("INFO")
    fake_hub.repos["a/b"] = Repo(ENCODER)
    path = hub.get("a/b")
    if why == "offline":
        fake_hub.offline()
    elif why == "unreachable":
        fake_hub.close()
    else:
        fake_hub.status = 500
    assert hub.get("a/b") == path and hub.get("a/b", update=True) == path
    assert caplog.messages[-1].endswith(f"; taking a/b from the cache, {path}")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set; fetch the model where|is not reachable|status 500"):
        hub.get("a/c")


@pytest.mark.parametrize("name", ["a/b", "a/b@v1", f"a/b@{COMMIT}"])
@pytest.mark.parametrize("proof", [".gitattributes", "modules.json", "no modules.json", None])
def test_offline_another_programs_copy_is_taken_if_it_is_whole(fake_hub, tmp_path, name, proof):
    storage = tmp_path / "hub" / "models--a--b"
    snapshot = storage / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (storage / "refs").mkdir()
    for reference in ("main", "v1"):
        (storage / "refs" / reference).write_text(COMMIT)
    for file, content in ENCODER.items():
        (snapshot / file).write_bytes(content)
    if proof == "no modules.json":
        (storage / ".no_exist" / COMMIT).mkdir(parents=True)
        (storage / ".no_exist" / COMMIT / "modules.json").touch()
    elif proof:
        (snapshot / proof).write_bytes(modules(("Transformer", "")))
    fake_hub.offline()
    if proof:
        assert hub.get(name) == snapshot
        (snapshot / "model.safetensors").unlink()
        told = "has neither model.safetensors"
    else:
        told = "is in the cache, .*, but it may be incomplete: it has no modules.json"
    with pytest.raises(ModelError, match=told):
        hub.get(name)


@pytest.mark.parametrize("reference", [None, "", "../../..", "0" * 39])
def test_offline_a_damaged_cache_is_as_none(fake_hub, tmp_path, reference):
    if reference is not None:
        (tmp_path / "hub" / "models--a--b" / "refs").mkdir(parents=True)
        (tmp_path / "hub" / "models--a--b" / "refs" / "main").write_text(reference)
    fake_hub.offline()
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        hub.get("a/b")


def test_without_the_library(fake_hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="there is no directory a/b, and to fetch it .* the package huggingface_hub"):
        hub.get("a/b")
    assert hub.place() == "the Hugging Face Hub" and hub.is_offline() and not hub.is_at_hand("a/b")


# ---- the variables of the library ------------------------------------------------------------------------------------

def test_the_command_follows_the_librarys_variables(fake_hub, tmp_path):
    """In a process of its own, since the library reads them once."""
    fake_hub.repos["own/private"] = Repo(ENCODER | OTHERS, private=True)

    def get(*words, **environ):
        done = subprocess.run([sys.executable, "-m", "bert_serving.server.engine.command", "get", *words],
                              env={**os.environ, "HF_ENDPOINT": fake_hub.endpoint,
                                   "HF_HOME": str(tmp_path / "home"), **environ},
                              capture_output=True, text=True, timeout=50)
        return done.returncode, done.stdout, done.stderr.splitlines()

    code, printed, lines = get("own/private", "--revision", "v1", HF_TOKEN=FakeHub.TOKEN)
    path = str(tmp_path / "home" / "hub" / "models--own--private" / "snapshots" / COMMIT)
    assert (code, printed) == (0, path + "\n")
    assert lines == [f"fetching own/private@v1 from the Hugging Face Hub ({fake_hub.endpoint}): 3 files, 0 MB",
                     f"own/private@v1 is in {path}"]
    code, printed, lines = get("own/private@v1", HF_HUB_OFFLINE="1")
    assert (code, printed, len(lines)) == (0, path + "\n", 1) and "HF_HUB_OFFLINE is set" in lines[0]
    code, printed, lines = get("own/private", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "elsewhere"))
    assert (code, printed, len(lines)) == (3, "", 1)
    assert lines[0].startswith("bert-serving-model: there is no directory own/private, and")
