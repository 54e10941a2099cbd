"""Repair of located errors: neuron-flip, neuron-fine-tune, and what they are compared with, a file each."""
