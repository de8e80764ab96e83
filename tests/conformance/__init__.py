"""What every file system promises, whatever serves it and however it is reached."""
