"""Settings of the property tests (no time limit for one example, since machines that run tests are busy), and which
library of the native encoder the tests have, whatever the processor is."""
import pytest
from hypothesis import settings

from bert_serving.server.engine.backends import native
from bert_serving.server.engine.native import library
from bert_serving.server.errors import EngineError

settings.register_profile("server", deadline=None, database=None)
settings.load_profile("server")


@pytest.fixture
def native_build(monkeypatch):
    """Has the native backend take one of its library's builds, or none, as on a processor without AVX-512.

    Skips the test where the build was not compiled.
    """
    def take(name):
        if name != native.NONE and not library.path_of(name).exists():
            pytest.skip(f"{library.path_of(name).name} was not compiled")
        monkeypatch.setenv(native.BUILD, name)
        native.build.cache_clear()

    yield take
    native.build.cache_clear()                         # before the variable is as it was


@pytest.fixture
def any_native_build(native_build):
    """The native backend runs on every processor: with the build in plain C++ where there is none for this one."""
    try:
        native.build()
    except EngineError:
        native_build("plain")


@pytest.fixture(params=[False, True], ids=["without native", "with native"])
def has_native(request, native_build):
    """Whether the native backend finds a build; each test runs for both."""
    native_build("plain" if request.param else native.NONE)
    return request.param
