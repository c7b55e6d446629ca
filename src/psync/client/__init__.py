"""The client: sync, start, attach, exit status; resume; the local terminal; the public API.

``targets`` and ``connect`` find the way to a daemon, ``lifeline`` keeps the connection to it up,
``run`` is one run on it, ``target`` ties them together for the command line and for programs that
use psync as a library. Nothing in here prints or exits.
"""
