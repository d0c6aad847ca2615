"""Run by test_openai.py, each part in an environment that has what it imports: ``openai_client.py PART URL``.

Prints a JSON object of what was seen.
"""
import json
import sys

TEXTS = ["First do it", "then do it right", "then do it better"]


def with_openai(url):
    import openai

    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    decoded = client.embeddings.create(model="any", input=TEXTS)  # asks for base64, and decodes it
    floats = client.embeddings.create(model="any", input=TEXTS, encoding_format="float")
    short = client.embeddings.create(model="any", input=TEXTS[0], dimensions=5)
    try:
        client.embeddings.create(model="any", input=["a", ""])
        error = None
    except openai.BadRequestError as caught:
        error = [caught.status_code, caught.type, caught.param, caught.code]
    try:
        client.embeddings.create(model="any", input=[1, 2, 3])
        ids_error = None
    except openai.BadRequestError as caught:
        ids_error = caught.code
    return {
        "shape": [len(decoded.data), len(decoded.data[0].embedding)],
        "base64_equals_float": all(max(abs(a - b) for a, b in zip(one.embedding, other.embedding)) < 1e-6
                                   for one, other in zip(decoded.data, floats.data)),
        "lengths": [round(sum(number ** 2 for number in one.embedding) ** 0.5, 5)
                    for one in [*decoded.data, *short.data]],
        "dimensions": len(short.data[0].embedding),
        "usage": [decoded.usage.prompt_tokens, decoded.usage.total_tokens],
        "models": [model.id for model in client.models.list()],
        "error": error, "ids_error": ids_error}


def with_langchain(url):
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(base_url=url, api_key="none", check_embedding_ctx_length=False)
    documents = embeddings.embed_documents(TEXTS)
    query = embeddings.embed_query(TEXTS[1])
    return seen(documents, query)


def with_llamaindex(url):
    from llama_index.embeddings.openai import OpenAIEmbedding

    embeddings = OpenAIEmbedding(api_base=url, api_key="none")
    return seen(embeddings.get_text_embedding_batch(TEXTS), embeddings.get_query_embedding(TEXTS[1]))


def seen(documents, query):
    difference = max(abs(a - b) for a, b in zip(documents[1], query))
    return {"shape": [len(documents), len(query)], "the_same_alone": difference < 1e-6,
            "different": documents[0] != documents[1]}


PARTS = {"openai": with_openai, "langchain-openai": with_langchain,
         "llama-index-embeddings-openai": with_llamaindex}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](sys.argv[2])))
