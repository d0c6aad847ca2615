"""Vocabulary of the tests of the proxy: a client that answers what the test says, and an app around it."""
import json

import numpy as np
import pytest
from bert_serving.client.checks import check_input
from bert_serving.server.proxy import pages
from bert_serving.server.proxy.app import create_app
from bert_serving.server.proxy.orders import HttpOptions, ServedModel, ProxyOrders


def told(*, http_max_connect=10, cors="*", max_message_mb=64.0, verbose=False, **more):
    """Orders of a proxy, options of the user and others alike."""
    return ProxyOrders(**{
        "ip": "127.0.0.1", "port": 1, "port_out": 2, "host": "127.0.0.1", "http_port": 0, "api_keys": (), "curve": None,
        "private": (), "model": ServedModel(), **more,
        "options": HttpOptions(http_max_connect=http_max_connect, cors=cors, max_message_mb=max_message_mb,
                               verbose=verbose)})


class FakeClient:
    """Stands for a ConcurrentBertClient: a text's vector is [its length, its number]; ``error`` is raised instead.

    It refuses what the real one refuses before anything is sent. Its tokens are words, between [CLS] and [SEP].
    """

    error: Exception | None = None

    def encode(self, texts, *, is_tokenized=False, show_tokens=False, input=None):
        self.call = {"texts": texts, "is_tokenized": is_tokenized, **({"input": input} if input else {})}
        if self.error:
            raise self.error
        check_input(texts, is_tokenized)
        vectors = np.array([[len(text), number] for number, text in enumerate(texts)], np.float32)
        tokens = [["[CLS]", *(text if is_tokenized else text.split()), "[SEP]"] for text in texts]
        return (vectors, tokens) if show_tokens else vectors

    @property
    def status(self):
        if self.error:
            raise self.error
        return {"identity": "ab", "num_request": 3, "pending_request": [7], "output_fmt": "ndarray"}

    @property
    def server_status(self):
        if self.error:
            raise self.error
        return {"server_version": "1.10.0", "statistic": {"num_data_request": 5}}


@pytest.fixture
def fake():
    return FakeClient()


@pytest.fixture
def make(fake):
    """Makes a test client of an app with these orders, and where its page is."""
    def make(dashboard=pages.DASHBOARD, **orders):
        return create_app(fake, fake, told(**orders), dashboard=dashboard).test_client()
    return make


@pytest.fixture
def http(make):
    return make()


def strict(response):
    """The body as standard JSON: NaN and Infinity are refused."""
    return json.loads(response.data, parse_constant=lambda name: pytest.fail(f"bare {name} in {response.data!r}"))
