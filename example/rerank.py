"""Sort texts by how well they answer a question, with a reranker (a cross-encoder).

    bert-serving-start -model_dir cross-encoder/ms-marco-MiniLM-L6-v2
    python example/rerank.py

A reranker reads the question and a text together, and answers with one number, the score. That is slower than
comparing embeddings: use it for the few texts that a search by embeddings found.
"""
import argparse

from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-question", default="how many people live in Berlin?")
parser.add_argument("-text", nargs="+", default=["Berlin is well known for its museums.",
                                                 "Berlin had a population of 3,520,031 registered inhabitants.",
                                                 "The train to Hamburg leaves at noon."])
args = parser.parse_args()

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
    scores = bc.encode([(args.question, text) for text in args.text])            # [texts, 1]
if scores.shape != (len(args.text), 1):
    parser.error(f"the server answers with {scores.shape[-1]} numbers for a pair, expected one; start it with a "
                 "reranker as -model_dir")
for score, text in sorted(zip(scores[:, 0], args.text), reverse=True):
    print(f"{score:.4f}  {text}")
