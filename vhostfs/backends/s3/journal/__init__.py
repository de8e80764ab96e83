"""What outlives the daemon: changes that are not in the bucket yet, uploads under way, and what lost a race.

`state` is the directory; `records` the format of the one log in it, `intents` what is said there; `journal`
when that is durable, and what is found again.
"""
