"""Descriptions of tasks in many wordings: asked of a language model, or made from templates."""
