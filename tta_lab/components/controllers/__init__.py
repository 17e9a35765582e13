"""What watches a stream and resets: plain resets, the collapse detector, the guard."""
