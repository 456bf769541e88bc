"""Adapters behind a model name: a server that speaks OpenAI's API, a plugin of vLLM, a web page."""
