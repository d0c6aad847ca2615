"""Ask a server with a classifier for the classes of texts.

    bert-serving-start -model_dir /tmp/news-classifier
    python example/classify.py -directory /tmp/news-classifier

The server answers with a probability for each class, in the order of id2label in the model's config.json.
"""
import argparse
import json
from pathlib import Path

from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-directory", type=Path, required=True, help="the model that is served: its config.json has labels")
parser.add_argument("-text", nargs="+", default=["shares fall as the central bank raises rates",
                                                 "the singer announces a world tour",
                                                 "new phone has a curved screen"])
args = parser.parse_args()

names = json.loads((args.directory / "config.json").read_text(encoding="utf-8"))["id2label"]
with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
    scores = bc.encode(args.text)                                                # [texts, classes]
if scores.shape != (len(args.text), len(names)):
    parser.error(f"the server answers with {scores.shape[-1]} numbers for a text, expected {len(names)}; start it with "
                 "-model_dir, and no -pooling_strategy")
for text, row in zip(args.text, scores):
    print(f"{text} -> {names[str(row.argmax())]} ({row.max():.2f})")
