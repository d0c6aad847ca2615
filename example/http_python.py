"""HTTP from Python, without this project's client and without any package.

    bert-serving-start -http_port 8125
    python example/http_python.py
"""
import argparse
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-http_port", type=int, default=8125)
args = parser.parse_args()


def encode(texts):
    """One list of numbers a sentence."""
    request = Request(f"http://{args.ip}:{args.http_port}/encode", json.dumps({"id": 1, "texts": texts}).encode(),
                      {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)["results"]


vectors = encode(["hello world", "good day"])
print(f"{len(vectors)} vectors of {len(vectors[0])} numbers")
try:
    encode(["hello world", ""])
except HTTPError as error:
    print(f"an empty sentence is answered with {error.code}: {json.load(error)['description']}")
