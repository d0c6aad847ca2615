"""Two ways not to wait for each answer: take each one as it comes, or all at once.

    bert-serving-start
    python example/fetch_later.py
"""
import argparse

from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
args = parser.parse_args()

batches = [["hello world"], ["good day", "how are you?"], ["fine, thanks", "and you?", "so am I"]]

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
    print("send, then take each result as it comes:")
    for batch in batches:
        bc.encode(batch, blocking=False)
    for response in bc.fetch():
        print(f"  request {response.id}: {response.embedding.shape}")

    print("send, then wait for all, in the order of the requests:")
    for batch in batches:
        bc.encode(batch, blocking=False)
    print(f"  {bc.fetch_all(concat=True).shape}")
