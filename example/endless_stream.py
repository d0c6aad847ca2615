"""Encode a stream that never ends: a thread sends batches while the results of earlier ones are being read.

    bert-serving-start
    python example/endless_stream.py                  stop it with Ctrl-C
    python example/endless_stream.py -num_batch 10
"""
import argparse
import itertools
import time
from pathlib import Path

from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-num_batch", type=int, help="stop after so many batches; default: never")
parser.add_argument("-batch_size", type=int, default=64)
args = parser.parse_args()

news = Path(__file__).parent / "data" / "news_titles.tsv"
titles = [line.split("\t")[1] for line in news.read_text(encoding="utf-8").splitlines()]


def stream():
    """Batches of titles, over and over; think of a queue, a log or a crawler."""
    endless = itertools.cycle(titles)
    while True:
        yield list(itertools.islice(endless, args.batch_size))


with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
    done, begin = 0, time.perf_counter()
    try:
        for response in bc.encode_async(stream(), max_num_batch=args.num_batch):
            done += len(response.embedding)
            print(f"request {response.id}: {response.embedding.shape}, {done} sentences so far, "
                  f"{done / (time.perf_counter() - begin):.0f} a second")
    except KeyboardInterrupt:
        print(f"stopped after {done} sentences")
