"""What a request costs a file system in Python that answers from memory, on vhostfs and on other libraries.

`benchmarks/python-compare` is the command. content.py takes a share into memory; in_memory.py,
on_pyfuse3.py and on_mfusepy.py answer from it; contestants.py runs them, comparison.py measures them.
"""
