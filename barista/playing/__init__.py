"""Playing what was learned: episodes that count, beside training and after it, and recordings."""
