"""A bucket mounted on this host: vhostfs beside s3fs and rclone, on a store as far away as S3.

`benchmarks/s3-compare` is the command. store.py is the store, in a process of its own, and objects.py what
lies in it; contestants.py mounts it; reading.py, writing.py and naming.py are what is done there; figures.py
says what is measured and aimed at, report.py makes the table, and comparison.py runs it all.
"""
