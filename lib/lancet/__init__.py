"""AI-Lancet: locating the weights that cause an error, and repairing them."""
