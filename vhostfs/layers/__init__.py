"""Layers: file systems that stand before another one, and change, watch or bound what it does.

read_only    nothing changes
id_map       users and groups are others than on the host
xattr_map    names of extended attributes are others than on the host
rate_limit   so many requests and bytes a second
audit        who asked for what, one line of JSON each
policy       what may be done, by path
quota        how much a tree may hold
fault        errors and delays, for tests of what stands above

interception and names are what several of them are made of: all operations in one place, and the paths of
nodes. Each layer's class is for programs, its settings are for the configuration (vhostfs.backends.contract).
"""
