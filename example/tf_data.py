"""Feed a Keras model through tf.data: a pool of clients turns titles into vectors while the model trains.

    bert-serving-start
    pip install './server[cpu]'
    python example/tf_data.py
"""
import argparse
from pathlib import Path

import tensorflow as tf
from bert_serving.client import ConcurrentBertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-num_client", type=int, default=4, help="so many batches are being encoded at a time")
parser.add_argument("-num_title", type=int, default=1584, help="use so many of the news titles")
args = parser.parse_args()

news = Path(__file__).parent / "data" / "news_titles.tsv"
rows = [line.split("\t") for line in news.read_text(encoding="utf-8").splitlines()]
labels, titles = zip(*rows[::len(rows) // args.num_title])
classes = sorted(set(labels))

with ConcurrentBertClient(max_concurrency=args.num_client, ip=args.ip, port=args.port, port_out=args.port_out,
                          timeout=60_000) as bc:
    one = bc.encode(["one"])
    if one.ndim != 2:
        parser.error("the server gives a vector for each token, and this needs one for each title: start it without "
                     "-pooling_strategy NONE")
    size = one.shape[1]

    def encode(texts, targets):
        """A string tensor [B] -> its vectors, float32 [B, D]."""
        vectors = tf.numpy_function(lambda batch: bc.encode([text.decode() for text in batch]), [texts], tf.float32)
        return tf.ensure_shape(vectors, (None, size)), targets

    batches = (tf.data.Dataset.from_tensor_slices((list(titles), [classes.index(label) for label in labels]))
               .shuffle(len(titles), seed=0, reshuffle_each_iteration=False)
               .batch(32)
               .map(encode, num_parallel_calls=args.num_client)
               .cache()                                       # each title is encoded once, not once an epoch
               .prefetch(2))
    test, train = batches.take(10), batches.skip(10)

    model = tf.keras.Sequential([tf.keras.layers.Dense(64, "relu"), tf.keras.layers.Dense(len(classes), "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train, epochs=10, verbose=0)
    _, accuracy = model.evaluate(test, verbose=0)
    print(f"{size} numbers a title, {args.num_client} clients; accuracy on 320 other titles: {accuracy:.2f}")
