"""Matrix states: the structured filter, smoother and samplers."""
