"""Broadcast: clients that share an identity all hear the results of each of them.

    bert-serving-start
    python example/broadcast.py
"""
import argparse
import threading
import uuid

from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
args = parser.parse_args()

NUM_BATCHES = 5
identity = f"news-{uuid.uuid4()}"


def connect():
    return BertClient(ip=args.ip, port=args.port, port_out=args.port_out, identity=identity, timeout=60_000)


def listen(client, name):
    for response in client.listen(NUM_BATCHES):
        print(f"{name} hears {response.embedding.shape}\n", end="", flush=True)  # one write, as two threads print


with connect() as sender, connect() as first, connect() as second:
    listeners = [threading.Thread(target=listen, args=(first, "the first listener")),
                 threading.Thread(target=listen, args=(second, "the second listener"))]
    for listener in listeners:
        listener.start()
    for number in range(NUM_BATCHES):
        sender.encode(["breaking news"] * (number + 1))
    for listener in listeners:
        listener.join()
