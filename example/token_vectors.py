"""One vector a token, as ELMo gives them: the same word has different vectors in different sentences.

    bert-serving-start -pooling_strategy NONE -pooling_layer -4 -max_seq_len 25
    python example/token_vectors.py
"""
import argparse

import numpy as np
from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
args = parser.parse_args()

sentences = ["the bank lent me money", "my bank raised its interest rates again", "we sat on the bank of the river"]

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
    vectors, tokens = bc.encode(sentences, show_tokens=True)
if vectors.ndim != 3:
    parser.error("the server pools, and this needs a vector for each token: start it with -pooling_strategy NONE")

print(f"{vectors.shape}: sentences, tokens at most, numbers; a shorter sentence is filled up with zeros")
for pieces, rows in zip(tokens, vectors):
    print(f"  {len(pieces)} tokens, {np.count_nonzero(rows.any(axis=1))} vectors: {' '.join(pieces)}")

banks = [rows[pieces.index("bank")] for pieces, rows in zip(tokens, vectors)]
banks = [vector / np.linalg.norm(vector) for vector in banks]
print(f"'bank' and 'bank', both of money: cosine {banks[0] @ banks[1]:.2f}")
print(f"'bank' of money and 'bank' of a river: cosine {banks[0] @ banks[2]:.2f}")
