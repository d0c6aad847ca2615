"""Fine-tune a BERT on news titles, save it as TensorFlow 1 does, and serve it.

    pip install './server[cpu]'
    python example/fine_tuned.py -directory /tmp/news

It writes a tiny BERT to /tmp/news/base and the tuned one to /tmp/news/tuned, and serves it on free ports.
By hand that is

    bert-serving-start -model_dir /tmp/news/base -tuned_model_dir /tmp/news/tuned -ckpt_name model.ckpt-200 \
        -pooling_strategy CLASSIFICATION -num_labels 4

Both models have the layout of Google's, so that a larger BERT can take the place of the tiny one.
"""
import argparse
import json
import logging
from pathlib import Path

import numpy as np
import tensorflow as tf
from bert_serving.client import BertClient
from bert_serving.server import BertServer, get_args_parser
from tokenizers import BertWordPieceTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="127.0.0.1", help="address that the server listens on")
parser.add_argument("-port", default="0", help="its ports; 0: any free ones")
parser.add_argument("-port_out", default="0")
parser.add_argument("-directory", type=Path, required=True, help="write the two models here")
parser.add_argument("-num_step", type=int, default=200)
args = parser.parse_args()

MAX_LENGTH = 24
config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256,
          "hidden_act": "gelu", "max_position_embeddings": MAX_LENGTH, "type_vocab_size": 2, "vocab_size": 2000}

# ---- titles, and how they are cut into pieces ------------------------------------------------------------------------

news = Path(__file__).parent / "data" / "news_titles.tsv"
classes, titles = zip(*(line.split("\t") for line in news.read_text(encoding="utf-8").splitlines()))
labels = sorted(set(classes))
targets = np.array([labels.index(label) for label in classes])
test, train = np.split(np.random.default_rng(0).permutation(len(titles)), [len(titles) // 5])

base, tuned = args.directory / "base", args.directory / "tuned"
base.mkdir(parents=True, exist_ok=True)
tuned.mkdir(exist_ok=True)
learned = BertWordPieceTokenizer()
learned.train_from_iterator(titles, config["vocab_size"], show_progress=False)
learned.save_model(str(base))                                                    # vocab.txt
tokenizer = BertWordPieceTokenizer(str(base / "vocab.txt"))                      # adds [CLS] and [SEP]
config["vocab_size"] = tokenizer.get_vocab_size()
(base / "bert_config.json").write_text(json.dumps(config))
tokenizer.enable_truncation(MAX_LENGTH)
tokenizer.enable_padding(length=MAX_LENGTH)


# ---- BERT: its variables have the names that checkpoints have --------------------------------------------------------

def variables(num_labels):
    """Name -> variable, all of them random."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    tables = {"word": "vocab_size", "token_type": "type_vocab_size", "position": "max_position_embeddings"}
    shapes = {f"bert/embeddings/{name}_embeddings": (config[rows], hidden) for name, rows in tables.items()}
    denses, norms = {"bert/pooler/dense": (hidden, hidden)}, ["bert/embeddings"]
    for number in range(config["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{number}"
        denses.update({f"{layer}/attention/self/{name}": (hidden, hidden) for name in ("query", "key", "value")})
        denses.update({f"{layer}/attention/output/dense": (hidden, hidden),
                       f"{layer}/intermediate/dense": (hidden, inner), f"{layer}/output/dense": (inner, hidden)})
        norms += [f"{layer}/attention/output", f"{layer}/output"]
    shapes.update({f"{name}/kernel": shape for name, shape in denses.items()}, output_weights=(num_labels, hidden))
    values = {name: tf.random.stateless_normal(shape, (0, number), stddev=0.02)
              for number, (name, shape) in enumerate(shapes.items())}
    values["output_bias"] = tf.zeros(num_labels)
    values.update({f"{name}/bias": tf.zeros(shape[1]) for name, shape in denses.items()})
    values.update({f"{name}/LayerNorm/{part}": value for name in norms
                   for part, value in (("gamma", tf.ones(hidden)), ("beta", tf.zeros(hidden)))})
    return {name: tf.Variable(value) for name, value in values.items()}


def dense(inputs, name):
    return inputs @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def layer_norm(inputs, name):
    mean, variance = tf.nn.moments(inputs, [-1], keepdims=True)
    return tf.nn.batch_normalization(inputs, mean, variance, weights[f"{name}/LayerNorm/beta"],
                                     weights[f"{name}/LayerNorm/gamma"], 1e-12)


def logits(ids, mask):
    """int [B, L] and 1.0 for each token that is no padding -> float [B, labels]"""
    heads, length = config["num_attention_heads"], tf.shape(ids)[1]
    split = (-1, length, heads, config["hidden_size"] // heads)
    hidden = tf.gather(weights["bert/embeddings/word_embeddings"], ids)                                   # [B, L, H]
    hidden += (weights["bert/embeddings/position_embeddings"][:length]
               + weights["bert/embeddings/token_type_embeddings"][0])
    hidden = layer_norm(hidden, "bert/embeddings")
    for number in range(config["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{number}"
        query, key, value = (tf.reshape(dense(hidden, f"{layer}/attention/self/{name}"), split)
                             for name in ("query", "key", "value"))                                       # [B, L, A, D]
        scores = tf.einsum("bfad,btad->baft", query, key) / split[-1] ** 0.5
        scores = tf.nn.softmax(scores - 10000.0 * (1.0 - mask[:, None, None, :]))
        context = tf.reshape(tf.einsum("baft,btad->bfad", scores, value), tf.shape(hidden))
        hidden = layer_norm(hidden + dense(context, f"{layer}/attention/output/dense"), f"{layer}/attention/output")
        inner = tf.nn.gelu(dense(hidden, f"{layer}/intermediate/dense"))
        hidden = layer_norm(hidden + dense(inner, f"{layer}/output/dense"), f"{layer}/output")
    pooled = tf.tanh(dense(hidden[:, 0], "bert/pooler/dense"))
    return tf.matmul(pooled, weights["output_weights"], transpose_b=True) + weights["output_bias"]


def save(prefix):
    """A checkpoint as TensorFlow 1's Saver writes it: tensors by name."""
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=list(weights), shape_and_slices=[""] * len(weights),
                      tensors=list(weights.values()))


# ---- fine-tuning -----------------------------------------------------------------------------------------------------

def cut(indices):
    """What logits() takes, of these titles."""
    pieces = tokenizer.encode_batch([titles[i] for i in indices])
    return (tf.constant([piece.ids for piece in pieces]),
            tf.constant([piece.attention_mask for piece in pieces], tf.float32))


@tf.function
def step(ids, mask, wanted):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits(ids, mask)))
    optimizer.apply_gradients(zip(tape.gradient(loss, trained), trained))
    return loss


weights = variables(len(labels))
save(base / "bert_model.ckpt")
trained = list(weights.values())
optimizer = tf.keras.optimizers.Adam(2e-3)
random = np.random.default_rng(0)
for number in range(1, args.num_step + 1):
    batch = random.choice(train, 32)
    loss = step(*cut(batch), tf.constant(targets[batch]))
    if number % 50 == 0:
        print(f"step {number}: loss {loss:.3f}")
save(tuned / f"model.ckpt-{args.num_step}")
print(f"wrote {tuned}/model.ckpt-{args.num_step}")

# ---- serving ---------------------------------------------------------------------------------------------------------

logging.basicConfig(level=logging.INFO, format="%(message)s")                    # to see what the server says
options = ["-model_dir", str(base), "-tuned_model_dir", str(tuned), "-ckpt_name", f"model.ckpt-{args.num_step}",
           "-pooling_strategy", "CLASSIFICATION", "-num_labels", str(len(labels)), "-max_seq_len", str(MAX_LENGTH),
           "-graph_tmp_dir", str(args.directory / "graphs"),                     # or else the user's cache
           "-host", args.ip, "-port", args.port, "-port_out", args.port_out, "-cpu"]
with BertServer(get_args_parser().parse_args(options)) as server:
    with BertClient(ip=args.ip, port=server.port, port_out=server.port_out, timeout=60_000) as bc:
        odds = bc.encode([titles[i] for i in test])                                   # [titles, labels]
ours = tf.nn.softmax(logits(*cut(test)))
accuracy = np.mean(odds.argmax(1) == targets[test])
largest = np.bincount(targets[test]).max() / len(test)
print(f"the server's answers differ from our own by {np.abs(odds - ours).max():.0e} at most")
print(f"accuracy on {len(test)} titles that it was not tuned on: {accuracy:.2f}; "
      f"always the largest class: {largest:.2f}")
