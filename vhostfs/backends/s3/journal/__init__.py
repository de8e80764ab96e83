"""What outlives the daemon: changes not yet in the bucket, uploads and renames under way, what lost a race.

`state` is the directory; `records` the format of the one log in it, `intents` and `renames` what is said
there; `journal` when that is durable, and what is found again.
"""
