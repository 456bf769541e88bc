"""Public benchmarks: lm-eval's tasks with adapters applied, beside the paper's published tables."""
