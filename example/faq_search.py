"""Semantic search: which questions of a FAQ are nearest to yours, in other words than yours?

    bert-serving-start
    python example/faq_search.py                                   then type questions; an empty one ends it
    python example/faq_search.py -question "is it fast enough?"
    python example/faq_search.py -faq ANOTHER.md                   whose headings are the questions
"""
import argparse
import re
import sys
from pathlib import Path

import numpy as np
from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-faq", type=Path, default=Path(__file__).parents[1] / "docs" / "faq.md")
parser.add_argument("-question", nargs="+", help="ask these, and end")
parser.add_argument("-top", type=int, default=3)
args = parser.parse_args()


def normalized(vectors):
    """Of length 1, so that their product is the cosine."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def asked():
    """What the user types, until an empty line."""
    print("your questions, one a line:", flush=True)
    for line in sys.stdin:
        if not line.strip():
            return
        yield line.strip()


try:
    text = args.faq.read_text(encoding="utf-8")
except (OSError, UnicodeDecodeError) as error:
    parser.error(f"cannot read {args.faq}, which -faq names: {error}")
questions = [heading.strip() for heading in re.findall(r"^#{2,}\s+(.+)$", text, re.M)]
if not questions:
    parser.error(f"{args.faq} has no headings (## or more), which are taken for the questions")

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
    vectors = bc.encode(questions)              # [questions, D]; once, and then only yours is encoded
    if vectors.ndim != 2:
        parser.error("the server gives a vector for each token, and this needs one for each question: start it without "
                     "-pooling_strategy NONE")
    vectors = normalized(vectors)
    print(f"{len(questions)} questions of {args.faq.name}")
    for question in args.question or asked():
        scores = vectors @ normalized(bc.encode([question]))[0]
        print(f"\n{question}")
        for number in np.argsort(-scores)[:args.top]:
            print(f"  {scores[number]:.2f}  {questions[number]}")
