"""What the benchmarks promise: that they count only what was answered rightly."""
