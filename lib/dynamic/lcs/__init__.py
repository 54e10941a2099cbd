"""Layerwise channel selection: decision units, the network they are inserted into, its training, its real speed."""
