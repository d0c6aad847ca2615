"""The client: two lines of code from sentences to vectors."""
__version__ = "2.0.0"
