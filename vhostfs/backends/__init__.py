"""The file systems behind a device."""
