"""FUSE on the wire, up to 7.45. Pure: no I/O, and nothing of vhostfs is imported from outside this package.

opcodes        what may be asked, and what a server may tell unasked
flags          the bit masks of all fields
layout         how a C structure becomes a frozen dataclass
structures     requests and replies; notifications, device: what else <linux/fuse.h> declares
compatibility  the sizes that older minor versions know
directory      listings; extensions: what follows a creation's arguments
negotiation    which INIT flags are taken, and why
"""
