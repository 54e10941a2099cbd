"""The study of slices: what is computed at a scale, its records, texts and plots."""
