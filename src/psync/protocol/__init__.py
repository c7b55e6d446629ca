"""psync.v1: the language of client and daemon, without any I/O.

``messages`` declares what can be said, ``codec`` turns it into bytes and back, ``connection`` is
the state machine of one connection, ``flow`` keeps offsets and windows of one stream.
"""
