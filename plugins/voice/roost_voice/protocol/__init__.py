"""The voice protocol, pure: bytes and a clock in, events and bytes out.

Nothing here opens a socket, reads a clock, logs, or raises on what a peer sends. `link.LinkProtocol` composes the
parts; `roost_voice.native` drives it with real sockets.
"""
