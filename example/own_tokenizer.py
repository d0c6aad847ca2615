"""Bring your own tokens: sentences that are split already are taken as they are, word by word.

    bert-serving-start
    python example/own_tokenizer.py
"""
import argparse
import re

from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
args = parser.parse_args()

texts = ["Hello, world!", "Good morning"]


def tokenize(text):
    """Words and punctuation, in lower case: what the vocabulary of an uncased model has."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
    for name, tokens in (("split at blanks", [text.split() for text in texts]),
                         ("our own tokenizer", [tokenize(text) for text in texts])):
        vectors, seen = bc.encode(tokens, is_tokenized=True, show_tokens=True)
        print(f"{name}: {vectors.shape}")
        for given, taken in zip(tokens, seen):
            print(f"  {given} -> {taken}")
    same = (vectors == bc.encode(texts)).all()
    print(f"the vectors of our tokens are those of the sentences: {'yes' if same else 'no'}")
