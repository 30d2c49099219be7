"""Networks: one family in one file, state-dict keys as in its public reference."""
