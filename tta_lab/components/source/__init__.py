"""What is taken from the source domain before a stream."""
