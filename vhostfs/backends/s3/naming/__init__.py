"""The names of a bucket: which keys are files and directories, and what their metadata tells of them."""
