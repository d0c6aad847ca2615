"""Measures what it takes to convert a model, as a first start does: seconds, and memory at its peak.

    python docs/performance/conversion.py -model_dir DIR -precision int8

Options are those of ``bert-serving-start``. The process that converts is a real one, and what it makes is thrown away.
"""
from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile

from bert_serving.server.config import ServerConfig, get_args_parser
from bert_serving.server.engine.artefact import ArtefactOrders
from bert_serving.server.engine.models import resolve


def main() -> None:
    model = resolve(ServerConfig.from_args(get_args_parser().parse_args()))
    with tempfile.TemporaryDirectory() as directory:
        orders = json.dumps(ArtefactOrders(model.settings, directory).to_json()) + "\n"
        done = subprocess.run([sys.executable, "-m", "bert_serving.server.engine.artefact"], input=orders, text=True,
                              stdout=subprocess.PIPE)
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise SystemExit(answer["error"]["message"])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{model.name}, engine {model.settings.engine}, {model.settings.precision}: {answer['seconds']:.1f} s, "
          f"{answer['layers_kept']} of {answer['layers']} layers in {answer['bytes'] / 1e6:.0f} MB, "
          f"{peak / 1e6:.0f} MB of memory at the peak")


if __name__ == "__main__":
    main()
