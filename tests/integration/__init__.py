"""What is promised of the whole: real guests that work on directories which the daemon serves."""
