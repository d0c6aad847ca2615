"""A context whose sockets live until the end of the test, and are closed then."""
import pytest
import zmq


@pytest.fixture
def context():
    sockets = []

    class Context(zmq.Context):
        def socket(self, *arguments, **settings):
            sockets.append(super().socket(*arguments, **settings))
            return sockets[-1]

    context = Context()
    yield context
    context.destroy(linger=0)
