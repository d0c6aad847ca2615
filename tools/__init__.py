"""Programs of the project itself, which no package has; each is run by a target of the Makefile."""
