"""FUSE on the wire, up to 7.45: opcodes, flags, structures. Imports nothing of vhostfs."""
