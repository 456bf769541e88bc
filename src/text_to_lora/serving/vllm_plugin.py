"""A plugin of vLLM: `vllm serve` answers to a sentence, an id or an alias as the name of a model.

vLLM calls `register` in each of its processes, by the entry point `vllm.general_plugins`; without the
environment variable T2L_HYPERNET it does nothing. Its server then asks the resolver for every model
name that it does not know. What it gets is the path of a PEFT folder in the store.

Source: vLLM 0.33, vllm/lora/resolver.py and vllm/entrypoints/openai/models/serving.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from text_to_lora.errors import BackendError, ConfigError, T2LError, shorten

NAME: Final = "text-to-lora"
_log: Final = logging.getLogger("vllm.text_to_lora")  # below the logger that vLLM shows


def register() -> None:
    """Register the resolver with vLLM when T2L_HYPERNET names a hypernetwork; loads nothing else."""
    if not os.environ.get("T2L_HYPERNET"):
        return
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    class Resolver(LoRAResolver):  # type: ignore[misc]  # vLLM is not installed where types are checked
        """Adapters of sentences for vLLM."""

        def __init__(self) -> None:
            self._adapters = AdapterPaths(_load_from_environment)

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            """The adapter of a model name, None where there is none; never raises."""
            stored = await self._adapters.find(lora_name)
            if stored is None:
                return None
            adapter_id, path = stored
            # vLLM replaces the number; it has to be positive, and unlike for unlike adapters
            number = int(adapter_id.removeprefix("t2l-")[:7], 16) + 1
            return LoRARequest(
                lora_name=adapter_id,
                lora_int_id=number,
                lora_path=str(path),
                base_model_name=base_model_name,
            )

    LoRAResolverRegistry.register_resolver(NAME, Resolver())


class AdapterPaths:
    """Folders of adapters for model names, generated on one thread, away from the caller's loop.

    load: gives the pool of adapters, on the first call that needs it
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = cache(load)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="t2l-resolver")

    async def find(self, name: str) -> tuple[str, Path] | None:
        """The id and the folder of an adapter; None, and a line in the log, where there is none."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._find, name)
        except T2LError as error:
            _log.warning("no adapter for model %s: %s", shorten(name), error)
        except Exception as error:  # vLLM does not catch what a resolver raises
            _log.error("no adapter for %s: %s: %s", shorten(name), type(error).__name__, error)
        return None

    def _find(self, name: str) -> tuple[str, Path]:
        pool = self._load()
        ref = pool.resolve(name)
        if ref.parts:
            raise ConfigError("vLLM takes no blends; name a sentence, an id or an alias")
        (result,) = pool.fetch([ref])
        if isinstance(result, T2LError):
            raise result
        return ref.id, pool.store.path(ref.id)


def _load_from_environment() -> Any:
    """The adapters of the hypernetwork T2L_HYPERNET in the store T2L_STORE."""
    from text_to_lora.generate import TextToLora
    from text_to_lora.models.cache import cache_folder
    from text_to_lora.serving.adapters import AdapterPool
    from text_to_lora.serving.store import AdapterStore

    store = AdapterStore(Path(os.environ.get("T2L_STORE") or cache_folder() / "store"))
    t2l = TextToLora.from_pretrained(os.environ["T2L_HYPERNET"])
    if t2l.reads_with_base and (base := os.environ.get("T2L_BASE")):
        t2l.attach_base(*t2l.load_base(base))
    rank = t2l.spec.rank
    _log.info(
        f"adapters have rank {rank}; vLLM has to be started with --max-lora-rank {rank} or more"
    )
    return AdapterPool(t2l, store, in_memory=1)


def check_effect(
    url: str, base: str, model: str, *, prompt: str = "The soup is cold.", api_key: str = "none"
) -> float:
    """Ask a server for one prompt with and without an adapter; gives how far its numbers move.

    url: of an OpenAI-compatible server, ending in /v1; base, model: names without and with the adapter
    Returns the largest difference of the log probabilities of the first eight tokens, in nats, or
    infinity where another token is chosen.

    Raises BackendError when nothing moves, since the server then serves the base alone, or when the
    server does not answer.
    """
    plain, moved = (_logprobs(url, name, prompt, api_key) for name in (base, model))
    if [token for token, _ in plain] != [token for token, _ in moved]:
        return float("inf")
    change = max(abs(a - b) for (_, a), (_, b) in zip(plain, moved, strict=True))
    if change == 0:
        raise BackendError(
            f"{model!r} answers exactly as {base!r}: the server does not apply the adapter"
        )
    return change


def _logprobs(url: str, model: str, prompt: str, api_key: str) -> list[tuple[str, float]]:
    """The tokens of an answer with their log probabilities."""
    body = {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 1}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}
    request = Request(f"{url}/completions", json.dumps(body).encode(), headers)
    try:
        with urlopen(request, timeout=300) as reply:
            logprobs = json.load(reply)["choices"][0]["logprobs"]
    except HTTPError as error:
        raise BackendError(
            f"{url} answers {error.code} for {model!r}: {error.read()[:300]!r}"
        ) from None
    except (URLError, OSError) as error:
        raise BackendError(f"{url} does not answer: {error}") from None
    return list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))
