"""End to end: one Keras model from text to class, whose first layer is the server.

    bert-serving-start
    pip install './server[cpu]'
    python example/text_to_class.py
    python example/text_to_class.py -text "The football season begins" "Oil gets cheaper"
"""
import argparse
from pathlib import Path

import tensorflow as tf
from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-num_title", type=int, default=1584, help="use so many of the news titles")
parser.add_argument("-text", nargs="+", default=["Shares rise as the central bank keeps rates low",
                                                 "The actress wears a golden dress at the premiere",
                                                 "A new phone with a curved screen",
                                                 "Doctors warn of a virus that spreads among children"])
args = parser.parse_args()


class Vectors(tf.keras.layers.Layer):
    """Strings [B] -> vectors [B, D], by a server. It has no weights: nothing of BERT is trained here."""

    def __init__(self, client, size):
        super().__init__(trainable=False)
        self.client = client
        self.size = size

    def call(self, texts):
        vectors = tf.numpy_function(lambda batch: self.client.encode([text.decode() for text in batch]), [texts],
                                    tf.float32)
        return tf.ensure_shape(vectors, (None, self.size))


news = Path(__file__).parent / "data" / "news_titles.tsv"
rows = [line.split("\t") for line in news.read_text(encoding="utf-8").splitlines()]
labels, titles = zip(*rows[::len(rows) // args.num_title])
classes = sorted(set(labels))

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=600_000) as bc:
    one = bc.encode(["one"])
    if one.ndim != 2:
        parser.error("the server gives a vector for each token, and this needs one for each title: start it without "
                     "-pooling_strategy NONE")
    size = one.shape[1]
    head = tf.keras.Sequential([tf.keras.Input((size,)), tf.keras.layers.Dense(len(classes), "softmax")])
    whole = tf.keras.Sequential([tf.keras.Input((), dtype=tf.string), Vectors(bc, size), head])

    # The head learns from vectors that are made once; the whole model could be fitted too, but would ask every epoch.
    head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    head.fit(bc.encode(list(titles)), tf.constant([classes.index(label) for label in labels]), epochs=30,
             batch_size=32, verbose=0)

    odds = whole.predict(tf.constant(args.text), verbose=0)                      # [texts, classes]

for text, row in zip(args.text, odds):
    print(f"{text} -> {classes[row.argmax()]} ({row.max():.0%})")
