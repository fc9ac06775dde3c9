"""Command line: serve, work, migrate, wait, dev and client commands."""
