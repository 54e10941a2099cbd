"""The study of AI-Lancet: what each notebook computes, records and draws."""
