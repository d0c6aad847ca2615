"""Watch a server: the dashboard in a browser, and the same numbers in Python.

    bert-serving-start -http_port 8125
    python example/monitor.py                          then open http://localhost:8125/; stop it with Ctrl-C

It keeps the server a little busy, so that there is something to see.
"""
import argparse
import itertools
import time

from bert_serving.client import BertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-num_look", type=int, help="stop after so many looks; default: never")
parser.add_argument("-pause", type=float, default=1.0, help="seconds between two looks")
args = parser.parse_args()

with BertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
    config = bc.server_config
    print(f"bert-serving {config['bert_serving_version']}, workers: {config['num_worker']}, "
          f"up since {config['server_start_time']}")
    try:
        for look in itertools.count(1):
            for _ in range(20):
                bc.encode(["how busy are you?", "not very"])
            statistic = bc.server_status["statistic"]
            print(f"{statistic['num_data_request']} requests of {statistic['num_total_client']} clients so far")
            if look == args.num_look:
                break
            time.sleep(args.pause)
    except KeyboardInterrupt:
        pass
