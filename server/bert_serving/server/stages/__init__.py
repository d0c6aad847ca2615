"""ZeroMQ loops: sockets in, core decides, sockets out."""
