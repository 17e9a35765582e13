"""What normalisation layers do at test time."""
