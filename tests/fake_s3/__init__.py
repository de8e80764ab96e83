"""An S3 server in the tests' own process, which keeps a bucket in memory, counts, and fails when told to.

`bucket` is what the server knows and what it does to it; `requests` how HTTP asks for it; `faults` what
goes wrong; `server` puts them on a socket of the loopback interface.
"""
