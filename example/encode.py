"""Sentences to vectors, one call after another, and how fast that is for more and more sentences.

    bert-serving-start
    python example/encode.py
"""
import argparse
import time
from pathlib import Path

from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
args = parser.parse_args()

readme = Path(__file__).parents[1] / "README.md"
lines = [line.strip() for line in readme.read_text(encoding="utf-8").splitlines() if line.strip()]

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, check_length=False, timeout=60_000) as bc:
    for times in (1, 2, 4, 8):
        texts = lines * times
        begin = time.perf_counter()
        vectors = bc.encode(texts)
        seconds = time.perf_counter() - begin
        print(f"{len(texts):5d} sentences -> {vectors.dtype} {vectors.shape}: {len(texts) / seconds:.0f} sentences/s")
