"""Bulk jobs: files of any size in, a file of vectors out, asking a server as any client does."""
