"""Speaks as engines.py does, and computes nothing: a vector is its sequence's first token and its length.

    python fake_engine.py [seconds [precision]]     each run is said to take so many, in that precision; else fp32
    python fake_engine.py mute          says nothing at all
    python fake_engine.py broken        cannot start
    python fake_engine.py dies          ends at the first run
"""
import json
import sys
import time
from pathlib import Path

import numpy as np

behaviour = sys.argv[1] if len(sys.argv) > 1 else "1"


def answer(**message):
    print(json.dumps(message), flush=True)


if behaviour == "mute":
    time.sleep(60)
if behaviour == "broken":
    print("what went wrong in full", file=sys.stderr)
    answer(error="ImportError: no such library")
    sys.exit(1)
answer(ready=f"fake engine {behaviour}", precision=sys.argv[2] if len(sys.argv) > 2 else "fp32")
loaded = {}
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "load":
        loaded[request["name"]] = json.loads(Path(request["file"]).read_text())
        answer()
    elif request["do"] == "write":
        np.save(request["file"], np.array([[ids[0], len(ids)] for ids in loaded[request["name"]]], np.float32))
        answer()
    elif behaviour == "dies":
        sys.exit(3)
    else:
        # The middle one counts.
        answer(seconds=[float(behaviour)] + [0.0, 1e9] * (request["repeat"] // 2))
