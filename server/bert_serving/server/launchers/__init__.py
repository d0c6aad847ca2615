"""Where a worker runs: on this machine today."""
