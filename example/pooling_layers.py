"""Which layer, which pooling? News titles of four classes, through every layer and several ways to pool, drawn in 2D.

    bert-serving-start -pooling_strategy NONE -max_seq_len 25 -pooling_layer -1 -2 -3 -4 -5 -6
    pip install './server[plot]'
    python example/pooling_layers.py

The server gives one vector a token and layer, and the pooling is done here, so that one server will do for all. A model
of 12 layers takes -pooling_layer -1 ... -12.
"""
import argparse
from pathlib import Path

import matplotlib
import numpy as np
from bert_serving.client import BertClient

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402, after the backend is chosen

POOLING = {
    "REDUCE_MEAN": lambda tokens: tokens.mean(axis=0),
    "REDUCE_MAX": lambda tokens: tokens.max(axis=0),
    "REDUCE_MEAN_MAX": lambda tokens: np.concatenate([tokens.mean(axis=0), tokens.max(axis=0)]),
    "CLS_TOKEN": lambda tokens: tokens[0],
    "SEP_TOKEN": lambda tokens: tokens[-1],
}
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-num_title", type=int, default=1584, help="use so many of the news titles")
parser.add_argument("-draw", nargs="+", choices=POOLING, default=["REDUCE_MEAN", "REDUCE_MAX"])
parser.add_argument("-directory", type=Path, default=Path("."), help="where the pictures go")
args = parser.parse_args()

news = Path(__file__).parent / "data" / "news_titles.tsv"
rows = [line.split("\t") for line in news.read_text(encoding="utf-8").splitlines()]
labels, titles = zip(*rows[::len(rows) // args.num_title])
classes = sorted(set(labels))
targets = np.array([classes.index(label) for label in labels])


def accuracy(vectors):
    """How often a title of one half is nearest to its own class's mean in the other half; the mean over the classes."""
    halves = np.arange(len(vectors)) % 2
    right = []
    for half in (0, 1):
        means = [vectors[(halves != half) & (targets == target)].mean(axis=0) for target in range(len(classes))]
        for target in range(len(classes)):
            own = vectors[(halves == half) & (targets == target)]
            distances = np.linalg.norm(own[:, None] - np.stack(means), axis=-1)                      # [titles, classes]
            right.append(np.mean(distances.argmin(axis=1) == target))
    return np.mean(right)


def flat(vectors):
    """The two directions in which they differ most (PCA): [N, D] -> [N, 2]"""
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T


def draw(strategy):
    """A picture with a panel a layer."""
    lines = -(-len(layers) // 3)
    figure, panels = plt.subplots(lines, 3, figsize=(9, 3.1 * lines + 0.6), squeeze=False, layout="constrained")
    for axes in panels.ravel():
        axes.set_axis_off()
    for layer, axes in zip(layers, panels.ravel()):
        points = flat(pooled[strategy, layer])
        order = np.random.default_rng(0).permutation(len(points))                # no class lies on top of all others
        axes.scatter(*points[order].T, s=7, alpha=0.6, linewidths=0, c=np.array(COLOURS)[targets[order]])
        axes.set_title(f"layer {layer}, accuracy {accuracy(pooled[strategy, layer]):.2f}", fontsize=10)
    figure.legend([plt.Line2D([], [], marker="o", linestyle="", color=colour) for colour in COLOURS], classes,
                  loc="outside lower center", ncols=len(classes), frameon=False)
    figure.suptitle(f"{len(titles)} news titles, {strategy}")
    path = args.directory / f"pooling-{strategy.lower().replace('_', '-')}.png"
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(f"drew {path}")


# ---- token vectors, pooled as they come ------------------------------------------------------------------------------

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, check_length=False, timeout=600_000) as bc:
    if bc.encode(["one"]).ndim != 3:
        parser.error("the server pools, and this needs a vector for each token: start it with -pooling_strategy NONE")
    layers = bc.server_config["pooling_layer"]
    pooled = {(strategy, layer): [] for strategy in POOLING for layer in layers}
    for start in range(0, len(titles), 64):
        for vectors, tokens in zip(*bc.encode(list(titles[start:start + 64]), show_tokens=True)):    # [T, layers * D]
            for layer, vectors_of_layer in zip(layers, np.split(vectors[:len(tokens)], len(layers), axis=1)):
                for strategy, pool in POOLING.items():
                    pooled[strategy, layer].append(pool(vectors_of_layer))
pooled = {key: np.stack(vectors) for key, vectors in pooled.items()}

print(f"{len(titles)} titles of {len(classes)} classes; accuracy by the nearest class mean")
print(f"{'layer':>15}" + "".join(f"{layer:>6}" for layer in layers))
for strategy in POOLING:
    print(f"{strategy:>15}" + "".join(f"{accuracy(pooled[strategy, layer]):6.2f}" for layer in layers))
for strategy in args.draw:
    draw(strategy)
