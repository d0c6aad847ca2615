"""The compiled libraries of the native encoder, one for each instruction set."""
