"""The demonstration: tasks that no training saw, answered before and after one sentence."""
