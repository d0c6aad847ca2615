"""The table of well-known models."""
import re

import pytest

from bert_serving.server.engine import library, well_known
from bert_serving.server.engine.architectures import ARCHITECTURES, architecture
from bert_serving.server.engine.hub import HubName
from bert_serving.server.engine.well_known import CLASSIFIER, EMBEDDING, ENCODER, KINDS, PAIRS, WELL_KNOWN


@pytest.mark.parametrize("model", WELL_KNOWN, ids=lambda model: model.name)
def test_a_row_is_complete(model):
    assert HubName.parse(model.name) and "/" in model.name and model.kind in KINDS
    assert re.fullmatch(r"[a-z0-9_-]+", model.model_type) and model.licence
    assert 64 <= model.max_length <= 32768 and (model.megabytes is None or 10 < model.megabytes < 5000)
    assert (model.labels is None) is (model.kind in (EMBEDDING, ENCODER)) is (model.dimensions is not None)
    assert (model.pooling in ("mean", "cls", "last")) is (model.kind == EMBEDDING)
    assert all(name in ("query", "passage", "clustering", "classification") and text for name, text in model.prompts)


def test_every_model_is_there_once():
    names = [model.name.lower() for model in WELL_KNOWN]
    assert len(set(names)) == len(names) >= 60


def test_what_is_served_follows_from_the_architectures(monkeypatch):
    monkeypatch.setattr(well_known, "ARCHITECTURES", ("bert",))
    shown = {model.name for kind in KINDS for model in well_known.served(kind)}
    others = {model.name: model.state for model in well_known.not_served()}
    assert {"BAAI/bge-base-en-v1.5", "cross-encoder/ms-marco-MiniLM-L6-v2", "google-bert/bert-base-cased"} <= shown
    assert not shown & set(others) and len(shown) + len(others) == len(WELL_KNOWN)
    assert set(others.values()) == {"not served"}
    assert "BAAI/bge-reranker-base" in others
    monkeypatch.setattr(well_known, "ARCHITECTURES", ("bert", "xlm-roberta", "new"))
    served = {model.name: model for kind in (EMBEDDING, PAIRS, CLASSIFIER) for model in well_known.served(kind)}
    assert served["BAAI/bge-reranker-base"].state == "by architecture"
    assert "Alibaba-NLP/gte-base-en-v1.5" not in served, "its configuration is that of its own code"


@pytest.mark.parametrize("model", [model for model in WELL_KNOWN if model.model_type in ARCHITECTURES],
                         ids=lambda model: model.name)
def test_own_code_that_an_architecture_reads_is_no_reason_not_to_serve(model):
    assert not (model.has_own_code and architecture(model.model_type).reads_own_code)


def test_the_default_model_was_run_here_and_agrees():
    row = next(model for model in WELL_KNOWN if model.name == library.DEFAULT.hub)
    config, sentence = library.DEFAULT.files["config.json"], library.DEFAULT.files["sentence_bert_config.json"]
    assert row.state == "run here" and row.model_type == config["model_type"] in ARCHITECTURES
    assert (row.dimensions, row.max_length) == (config["hidden_size"], sentence["max_seq_length"])
    assert f"{row.megabytes} MB" in library.DEFAULT.about and row.licence in library.DEFAULT.about
    assert row.normalizes and any(module["path"] == "2_Normalize" for module in library.DEFAULT.files["modules.json"])
