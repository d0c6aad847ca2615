"""``make peers``: this project beside what a user would take instead, on the same machine, in the same run.

Engines first, from token numbers to vectors; then servers, from text to vectors. Each peer lives in an environment of
its own, as a process of its own; engines.py and exports.py are run there, as files, and import nothing from here.
"""
