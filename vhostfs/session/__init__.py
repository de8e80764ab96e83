"""One FUSE session: requests in, operations of a file system called, replies out.

session      its life, and the tasks that operations run as
channel      what it agrees upon with whoever brings requests
offer        which requests and INIT flags it wants
dispatch     what the operations have in common; namespace, files, directories: the operations
replies      how answers are packed; listings: pages of directories
nodes        nodeids, lookup counts, handles
buffers      guest memory lent to reads and writes
faults       what exceptions mean
"""

from vhostfs.session.channel import Channel, RecordKind
from vhostfs.session.session import Session, State

__all__ = ["Channel", "RecordKind", "Session", "State"]
