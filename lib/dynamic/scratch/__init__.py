"""Pruning from scratch: gates learned on random weights, a search for the budget, a narrower network."""
