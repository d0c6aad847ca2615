"""The encoder of our own, server/native: its weights, laid out by NumPy, and its library, called through ctypes."""
