"""The door by which old code imports the parser: ``from bert_serving.server.helper import get_args_parser``."""
from .config import get_args_parser

__all__ = ["get_args_parser"]
