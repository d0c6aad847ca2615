"""Computation: from token ids to vectors.

The only room that imports TensorFlow, and only where a graph is made or run.
"""
