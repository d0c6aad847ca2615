"""The door by which old code imports the strategies: ``from bert_serving.server.graph import PoolingStrategy``."""
from .config import PoolingStrategy

__all__ = ["PoolingStrategy"]
