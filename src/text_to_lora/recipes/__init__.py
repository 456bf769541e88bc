"""Runs as data: each YAML file here is a RunConfig; `extends` names the recipe that it changes."""
