"""Keep vectors in a TFRecord file, and read them back for training: one a sentence, or one a token.

    bert-serving-start
    pip install './server[cpu]'
    python example/tfrecord.py -file /tmp/news.tfrecord

With one vector a token it is the same program, and another server:

    bert-serving-start -pooling_strategy NONE -max_seq_len 25
"""
import argparse
import itertools
from pathlib import Path

import tensorflow as tf
from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-file", default="news.tfrecord")
parser.add_argument("-num_title", type=int, default=1584, help="use so many of the news titles")
args = parser.parse_args()

news = Path(__file__).parent / "data" / "news_titles.tsv"
rows = [line.split("\t") for line in news.read_text(encoding="utf-8").splitlines()][:args.num_title]
BATCH = 64


def strings(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode() for value in values]))


def example(label, title, vector, tokens):
    """A record. Of token level, the rows that only fill up a short sentence are left out."""
    if vector.ndim == 2:
        vector = vector[:len(tokens)]
    return tf.train.Example(features=tf.train.Features(feature={
        "label": strings(label),
        "title": strings(title),
        "tokens": strings(*tokens),
        "vector": tf.train.Feature(float_list=tf.train.FloatList(value=vector.ravel())),
        "shape": tf.train.Feature(int64_list=tf.train.Int64List(value=vector.shape)),
    }))


with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=600_000) as bc, \
        tf.io.TFRecordWriter(args.file) as writer:
    batches = [rows[start:start + BATCH] for start in range(0, len(rows), BATCH)]
    responses = bc.encode_async(([title for _, title in batch] for batch in batches), show_tokens=True)
    for batch, response in zip(batches, sorted(responses, key=lambda response: response.id)):
        for (label, title), vector, tokens in zip(batch, response.embedding, response.tokens):
            writer.write(example(label, title, vector, tokens).SerializeToString())
print(f"wrote {len(rows)} records to {args.file}, {Path(args.file).stat().st_size / 1e6:.1f} MB")

description = {
    "label": tf.io.FixedLenFeature([], tf.string),
    "title": tf.io.FixedLenFeature([], tf.string),
    "tokens": tf.io.VarLenFeature(tf.string),
    "vector": tf.io.RaggedFeature(tf.float32),
    "shape": tf.io.RaggedFeature(tf.int64),
}


def parse(record):
    values = tf.io.parse_single_example(record, description)
    return values["title"], values["label"], tf.reshape(values["vector"], values["shape"])


dataset = tf.data.TFRecordDataset(args.file).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
for title, label, vector in itertools.islice(dataset, 3):
    print(f"{label.numpy().decode()}: {title.numpy().decode()}: {vector.dtype.name} {vector.shape}")
print(f"read {sum(1 for _ in dataset)} records")
