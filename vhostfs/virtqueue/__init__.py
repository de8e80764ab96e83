"""Guest memory and rings as Python objects: thin wrappers over the data plane."""
