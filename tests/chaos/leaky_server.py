"""``bert-serving-start`` in a process that also loses memory: ``leaky_server.py BYTES_PER_SECOND OPTIONS``.

The leak is a thread of this script's; the product's code is as it is.
"""
import sys
import threading
import time

from bert_serving.server.cli import main

KEPT = []


def leak(bytes_per_second: int) -> None:
    while True:
        time.sleep(0.1)
        KEPT.append(b"x" * (bytes_per_second // 10))


if __name__ == "__main__":
    threading.Thread(target=leak, args=(int(sys.argv.pop(1)),), daemon=True).start()
    sys.exit(main())
