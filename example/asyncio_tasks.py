"""asyncio: many tasks share one client, and none blocks the others.

    bert-serving-start
    python example/asyncio_tasks.py
"""
import argparse
import asyncio

from bert_serving.client import AsyncBertClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-port", type=int, default=5555)
parser.add_argument("-port_out", type=int, default=5556)
parser.add_argument("-num_task", type=int, default=100)
args = parser.parse_args()


async def produce():
    """Batches that come one by one, as from a web socket."""
    for number in range(5):
        await asyncio.sleep(0)
        yield [f"message {number}", "and its answer"]


async def main():
    async with AsyncBertClient(ip=args.ip, port=args.port, port_out=args.port_out, timeout=60_000) as bc:
        # All at the same time; the server merges them into batches.
        vectors = await asyncio.gather(*(bc.encode([f"question number {n}"]) for n in range(args.num_task)))
        print(f"{len(vectors)} tasks, each with its own answer of shape {vectors[0].shape}")

        async for response in bc.encode_async(produce()):
            print(f"request {response.id}: {response.embedding.shape}")


asyncio.run(main())
