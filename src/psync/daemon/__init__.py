"""psync-server: listens, knows who may connect, owns projects and the registry of runs.

It is never the parent of a program: it can be killed and started again at any moment, and no run
notices.
"""
