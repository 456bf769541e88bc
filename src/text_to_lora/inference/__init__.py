"""Prompts and answers through a base model, once for training, scoring and answering."""
