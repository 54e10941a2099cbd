"""The studies of layerwise channel selection and pruning from scratch: what each notebook computes, records, draws."""
