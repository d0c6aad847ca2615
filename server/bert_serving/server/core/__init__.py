"""Decisions: plain values in, plain values out. No sockets, clocks, processes or TensorFlow live here."""
