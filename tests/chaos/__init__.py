"""The fault bench: clients, faults, a history of what happened, and a model that says what had to happen.

``python -m chaos`` (or ``make chaos``) runs it against real servers; the tests beside it hold the bench itself to its
word. Nothing here is part of the product, and what is planted to make the bench fail sits outside of it, too.
"""
