"""What an object store promises, and the file system on it, checked on every store that can be had here.

`conftest` lists the stores, `differences` what each keeps otherwise and why; `ceph` runs a Ceph cluster in
miniature, whose RADOS Gateway is the only one of them that others than its clients' makers run in earnest.
"""
