"""Classify news titles: encode them once, train a small Keras model on the vectors, keep the model, and use it.

(1.x showed this with tf.estimator, which TensorFlow 2.16 removed.)

    bert-serving-start
    pip install './server[cpu]'
    python example/news_classifier.py
    python example/news_classifier.py -titles MINE.tsv       whose lines are: class, tab, title
"""
import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf
from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-titles", type=Path, default=Path(__file__).parent / "data" / "news_titles.tsv")
parser.add_argument("-num_title", type=int, default=10 ** 6, help="use so many of them at most")
parser.add_argument("-num_epoch", type=int, default=40)
args = parser.parse_args()

rows = [line.split("\t", 1) for line in args.titles.read_text(encoding="utf-8").splitlines()]
labels, titles = zip(*rows[::max(1, len(rows) // args.num_title)])
classes = sorted(set(labels))
targets = np.array([classes.index(label) for label in labels])

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=600_000) as bc:
    vectors = bc.encode(list(titles))                                            # [titles, D]
if vectors.ndim != 2:
    parser.error("the server gives a vector for each token, and this needs one for each title: start it without "
                 "-pooling_strategy NONE")

# Neighbours in the file often are about the same story: the last fifth of each class is for the test.
is_test = np.zeros(len(titles), bool)
for target in range(len(classes)):
    of_class = np.flatnonzero(targets == target)
    is_test[of_class[-len(of_class) // 5:]] = True

model = tf.keras.Sequential([
    tf.keras.Input(vectors.shape[1:]),
    tf.keras.layers.Dropout(0.3),
    tf.keras.layers.Dense(128, "relu"),
    tf.keras.layers.Dense(len(classes), "softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(vectors[~is_test], targets[~is_test], batch_size=32, epochs=args.num_epoch, verbose=0)

predicted = model.predict(vectors[is_test], verbose=0).argmax(1)
print(f"{(~is_test).sum()} titles to learn from, {is_test.sum()} of later stories to be tested with")
for target, name in enumerate(classes):
    of_class = targets[is_test] == target
    print(f"  {name}: {np.mean(predicted[of_class] == target):.2f} of {of_class.sum()} are right")
largest = np.bincount(targets[is_test]).max() / is_test.sum()
print(f"accuracy: {np.mean(predicted == targets[is_test]):.2f}; always the largest class: {largest:.2f}")
