"""Configuration: files with positions, options, and what both mean."""
