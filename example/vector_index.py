"""A vector index: search in 20,000 sentences by meaning, without comparing with each of them.

The sentences are at hand on every machine: what the functions of Python's standard library and of the installed
packages say about themselves. So you can look for a function by what it does.

    bert-serving-start
    pip install faiss-cpu
    python example/vector_index.py -query "remove a directory with everything in it"
"""
import argparse
import ast
import itertools
import sysconfig
import time
from pathlib import Path

import numpy as np
from bert_serving.client import BertClient

try:
    import faiss
except ImportError as error:
    raise SystemExit(f"This example needs faiss ({error}): pip install faiss-cpu") from error

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-query", nargs="+", default=["remove a directory with everything in it"])
parser.add_argument("-size", type=int, default=20_000, help="index so many sentences at most")
parser.add_argument("-path", type=Path, nargs="+", help="files or folders with Python code; default: all that is "
                                                        "installed",
                    default=[Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")])
parser.add_argument("-top", type=int, default=3)
args = parser.parse_args()


def described(paths):
    """(name, first paragraph of its docstring) of every public function and class; nothing is imported."""
    seen = set()
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            if {"test", "tests"} & set(file.relative_to(path).parts):
                continue
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_":
                    words = (ast.get_docstring(node) or "").partition("\n\n")[0].split()
                    text = " ".join(words)
                    if 3 <= len(words) <= 40 and text not in seen:
                        seen.add(text)
                        yield f"{file.stem}.{node.name}", text


found = list(itertools.islice(described(args.path), args.size))
sentences = [text for _, text in found]
print(f"{len(sentences)} sentences")

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, check_length=False, timeout=600_000) as bc:
    queries = np.array(bc.encode(args.query))                               # [queries, D]
    if queries.ndim != 2:
        parser.error("the server gives a vector for each token, and this needs one for each sentence: start it without "
                     "-pooling_strategy NONE")
    begin = time.perf_counter()
    batches = (sentences[start:start + 1024] for start in range(0, len(sentences), 1024))
    responses = sorted(bc.encode_async(batches))                            # in the order of the requests
    vectors = np.concatenate([response.embedding for response in responses])
    print(f"encoded in {time.perf_counter() - begin:.1f} s")

faiss.normalize_L2(vectors)                                                 # so that the inner product is the cosine
faiss.normalize_L2(queries)
begin = time.perf_counter()
index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
index.add(vectors)
print(f"indexed in {time.perf_counter() - begin:.1f} s")

begin = time.perf_counter()
scores, neighbours = index.search(queries, args.top)
milliseconds = (time.perf_counter() - begin) * 1000 / len(queries)
exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :args.top]
hits = np.mean([np.isin(a, b).mean() for a, b in zip(neighbours, exact)])
print(f"searched in {milliseconds:.2f} ms a query; {hits:.0%} of what an exact search finds")
for query, row, near in zip(args.query, scores, neighbours):
    print(f"\n{query}")
    for score, number in zip(row, near):
        print(f"  {score:.2f}  {found[number][0]}: {found[number][1]}")
