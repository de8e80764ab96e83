"""What whoever runs a mount of a bucket is told: what its server heeds, whether it answers, what was done."""
