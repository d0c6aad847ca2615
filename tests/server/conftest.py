"""Settings of the property tests: no time limit for one example, since machines that run tests are busy."""
from hypothesis import settings

settings.register_profile("server", deadline=None, database=None)
settings.load_profile("server")
