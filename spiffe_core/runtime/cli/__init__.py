"""What the command lines of server and agent share: Go's flags on click, output, and calls over a Unix socket.

Commands are SPIRE's, so are their texts, exit codes (0 ok, 1 any error, 127 unknown command) and what goes to
standard output or standard error; scripts depend on it.
"""
