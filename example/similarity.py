"""How well does the cosine of two vectors agree with people? Draws pairs of sentences that people have judged.

    bert-serving-start
    pip install './server[plot]' scipy
    python example/similarity.py -pairs stsb-en-test.csv -picture similarity.png

The file's lines are: sentence, sentence, score from 0 (unlike) to 5 (the same). That of the STS Benchmark, in English
and other languages, is at https://github.com/PhilipMay/stsb-multi-mt.
"""
import argparse
import csv
from pathlib import Path

import matplotlib
import numpy as np
from bert_serving.client import BertClient
from scipy.stats import spearmanr

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402, after the backend is chosen

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-pairs", type=Path, required=True)
parser.add_argument("-picture", type=Path, default=Path("similarity.png"))
args = parser.parse_args()

with args.pairs.open(encoding="utf-8", newline="") as file:
    left, right, scores = zip(*csv.reader(file))
gold = np.array(scores, float)

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=600_000) as bc:
    a, b = bc.encode(list(left)), bc.encode(list(right))
if a.ndim != 2:
    parser.error("the server gives a vector for each token, and this needs one for each sentence: start it without "
                 "-pooling_strategy NONE")
cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

agreement = spearmanr(cosines, gold).statistic
print(f"{len(gold)} pairs, Spearman's correlation {agreement:.3f}")
for low in range(5):
    within = (gold >= low) & (gold < low + 1 if low < 4 else gold <= 5)
    if within.any():
        print(f"  score {low} to {low + 1}: {within.sum()} pairs, mean cosine {cosines[within].mean():.2f}")

figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
jitter = np.random.default_rng(0).uniform(-0.06, 0.06, len(gold))           # many scores are whole numbers
axes.scatter(gold + jitter, cosines, s=9, alpha=0.35, linewidths=0, color="#0072B2")
axes.set(xlabel="people's score", ylabel="cosine of the two vectors", xlim=(-0.2, 5.2),
         title=f"{len(gold)} pairs of sentences, Spearman's correlation {agreement:.3f}")
axes.grid(alpha=0.3)
figure.savefig(args.picture, dpi=110)
print(f"drew {args.picture}")
