"""What the notebooks compute: plans, tables, and sentences made from the numbers."""
