"""Run by an interpreter that has an unmodified ``bert-serving-client`` of the original, not ours.

Arguments: PORT PORT_OUT. Prints one line of JSON: what each call gave.
"""
import json
import sys
import warnings

import bert_serving.client as original
from bert_serving.client import BertClient, ConcurrentBertClient

warnings.simplefilter("ignore")
old = original.__version__.startswith("1.7")
where = {"port": int(sys.argv[1]), "port_out": int(sys.argv[2]), "timeout": 10000}
no_checks = dict(where, check_version=False, check_length=False)
if not old:
    no_checks["ignore_all_checks"] = True

seen = {"version": original.__version__}
with BertClient(**where) as client:
    first = client.encode(["First do it", "then do it right", "then do it better"])
    seen["encode"] = first.shape
    seen["alone_equals_together"] = bool((client.encode(["then do it right"])[0] == first[1]).all())
    seen["tokenized"] = client.encode([["First", "do", "it"], ["so"]], is_tokenized=True).shape
    batches = ([["a%d" % number, "b"] for number in range(5)])
    got = client.encode_async(iter(batches), max_num_batch=5, delay=0.5)
    seen["encode_async"] = sorted(response[1].shape for response in got)
    for number in range(4):
        client.encode(["first do it"] * (number + 1), blocking=False)
    seen["fetch_all"] = client.fetch_all(concat=True).shape
    for number in range(3):
        client.encode(["sent %d" % number], blocking=False)
    seen["fetch"] = sorted(response.id for response in client.fetch())[-1] - client.request_id
    seen["large"] = client.encode(["sentence %d" % number for number in range(1000)]).shape
    status = client.server_status
    seen["status"] = [status["server_version"], status["statistic"]["num_data_request"] > 0]
    # What the client lets through and the server refuses has to become an exception, not a hang.
    client.sender.send_multipart([client.identity, b'{"not": "a list"}', b"9999", b"1"])
    client.pending_request.add(9999)
    try:
        list(client.fetch())
    except TypeError as error:
        seen["error"] = str(error)

seen["fresh_clients_answered"] = 0
for number in range(100):
    fresh = BertClient(**no_checks)
    seen["fresh_clients_answered"] += fresh.encode(["fresh %d" % number]).shape[0]
    fresh.close()

pool = ConcurrentBertClient(3, **where)
seen["pool"] = pool.encode(["from the pool"]).shape
pool.close()
print(json.dumps(seen))
