"""HTTP: a client of the server like any other, in a process of its own."""
