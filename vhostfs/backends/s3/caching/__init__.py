"""What was read of a bucket, and stays: in the daemon's memory, and on disk where settings say so."""
