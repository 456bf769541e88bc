"""Families of tasks whose input does not tell the task: only the description does.

Most real inputs betray their task, so that training hardly needs the description. Here the same
inputs come back under many tasks: renamed labels, formats of the answer, inverse tasks, operations on
the text, choice of a field or position, constant answers, and words of the description that belong
in the answer. Every task has its own parameters (words, letters, positions, labels) and many
wordings, which stand in YAML files beside the modules.
"""

from text_to_lora.tasks.families.collect import FAMILIES, VALIDATION_FAMILIES, families
from text_to_lora.tasks.families.family import Split
from text_to_lora.tasks.families.probe import Probe, word_probe

__all__ = ["FAMILIES", "VALIDATION_FAMILIES", "Probe", "Split", "families", "word_probe"]
