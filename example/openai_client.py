"""OpenAI's client, and so whatever is built on it, asks this server for embeddings.

    bert-serving-start -http_port 8125
    pip install openai
    python example/openai_client.py
"""
import argparse

from openai import BadRequestError, OpenAI

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-ip", default="localhost")
parser.add_argument("-http_port", type=int, default=8125)
parser.add_argument("-key", default="none", help="one of the server's -api_key, if it has any")
args = parser.parse_args()

with OpenAI(base_url=f"http://{args.ip}:{args.http_port}/v1", api_key=args.key) as client:
    model = client.models.list().data[0].id
    try:
        answer = client.embeddings.create(model=model, input=["hello world", "good day"])
    except BadRequestError as error:
        parser.error(error.message)
print(f"{model}: {len(answer.data)} vectors of {len(answer.data[0].embedding)} numbers, "
      f"for {answer.usage.prompt_tokens} tokens")
