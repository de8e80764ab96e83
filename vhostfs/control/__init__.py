"""The control socket of a daemon: mounts of its devices come and go while guests work."""
