"""The plugin follows vLLM's interface: its own classes where they can be imported, else stand-ins.

With the wheel of vLLM unpacked into a folder of PYTHONPATH, and msgspec installed, the classes are
vLLM's own: LoRARequest, LoRAResolver and LoRAResolverRegistry.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from text_to_lora.errors import BackendError
from text_to_lora.lora.peft_format import load_adapter
from text_to_lora.serving import vllm_plugin
from text_to_lora.serving.adapters import AdapterPool
from text_to_lora.serving.store import AdapterStore
from text_to_lora.serving.vllm_plugin import AdapterPaths, check_effect

SENTENCE = "Answer in capitals"


@dataclass
class StandInRequest:
    """The fields and checks of vLLM's LoRARequest."""

    lora_name: str
    lora_int_id: int
    lora_path: str
    base_model_name: str | None

    def __post_init__(self) -> None:
        assert self.lora_int_id >= 1 and self.lora_path


class StandInRegistry:
    """vLLM's registry."""

    def __init__(self) -> None:
        self.resolvers: dict[str, Any] = {}

    def register_resolver(self, name: str, resolver: Any) -> None:
        self.resolvers[name] = resolver


@pytest.fixture(params=["stand-ins", "vllm"])
def registry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The registry, empty at first."""
    if request.param == "vllm":
        resolver = pytest.importorskip("vllm.lora.resolver", exc_type=ImportError)
        monkeypatch.setattr(resolver.LoRAResolverRegistry, "resolvers", {})
        yield resolver.LoRAResolverRegistry
        return
    modules = {
        name: ModuleType(name)
        for name in ("vllm", "vllm.lora", "vllm.lora.request", "vllm.lora.resolver")
    }
    registry = StandInRegistry()
    contents = {
        "LoRARequest": StandInRequest,
        "LoRAResolver": object,
        "LoRAResolverRegistry": registry,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        for key, value in contents.items():
            setattr(module, key, value)
    yield registry


@pytest.fixture
def resolver(
    registry: Any, monkeypatch: pytest.MonkeyPatch, hypernet_folder: Path, tmp_path: Path
) -> Any:
    monkeypatch.setenv("T2L_HYPERNET", str(hypernet_folder))
    monkeypatch.setenv("T2L_STORE", str(tmp_path / "store"))
    vllm_plugin.register()
    return registry.resolvers["text-to-lora"]


def resolve(resolver: Any, name: str, base: str = "my-base") -> Any:
    return asyncio.run(resolver.resolve_lora(base, name))


def test_nothing_is_registered_without_a_hypernetwork(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("T2L_HYPERNET", raising=False)
    vllm_plugin.register()
    assert not registry.resolvers


def test_registering_loads_no_model(resolver: Any, tmp_path: Path) -> None:
    assert not (tmp_path / "store").exists()
    code = "import sys, text_to_lora.serving.vllm_plugin\n"
    code += "print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


def test_a_sentence_an_id_and_an_alias_give_a_request_for_one_folder(
    resolver: Any, tmp_path: Path, t2l: Any
) -> None:
    first = resolve(resolver, f"t2l:{SENTENCE}")
    store = AdapterStore(tmp_path / "store")
    store.set_alias("loud", first.lora_name)
    for name in (first.lora_name, "loud", f"t2l: {SENTENCE} "):
        other = resolve(resolver, name)
        assert (other.lora_name, other.lora_path) == (first.lora_name, first.lora_path)
    assert first.lora_name == AdapterPool(t2l, store).sentence(SENTENCE).id
    assert first.base_model_name == "my-base" and first.lora_int_id >= 1
    load_adapter(first.lora_path, spec=t2l.spec)
    assert resolve(resolver, "t2l:Say no").lora_name != first.lora_name


@pytest.mark.parametrize("name", ["nobody", "t2l: ", "../../x", "blend:a=1", "t2l-" + "0" * 32])
def test_what_there_is_not_is_none_and_a_line_in_the_log(
    resolver: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert resolve(resolver, name) is None
    assert [r.levelname for r in caplog.records if "no adapter for" in r.message] == ["WARNING"]
    assert "rank 4; vLLM has to be started with --max-lora-rank 4 or more" in caplog.text


def test_a_bug_is_none_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Any:
        raise RuntimeError("a bug")

    assert asyncio.run(AdapterPaths(load).find("t2l:x")) is None
    assert "no adapter for 't2l:x': RuntimeError: a bug" in caplog.text


def test_the_loop_goes_on_while_an_adapter_is_made(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def load() -> Any:
        assert gate.wait(10)
        raise RuntimeError("done")

    async def both() -> Any:
        finding = asyncio.create_task(AdapterPaths(load).find("t2l:x"))
        await asyncio.sleep(0.05)
        assert not finding.done()
        gate.set()
        return await finding

    assert asyncio.run(both()) is None


def test_the_entry_point_names_the_function() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {
        "text_to_lora": f"{vllm_plugin.__name__}:{vllm_plugin.register.__name__}"
    }


def test_an_adapter_that_a_server_ignores_is_noticed(serve: Callable[..., Any]) -> None:
    server = serve()
    url = f"{server.url}/v1"
    assert check_effect(url, "tiny", f"t2l:{SENTENCE}") > 0
    with pytest.raises(
        BackendError, match="'tiny' answers exactly as 'tiny': the server does not apply"
    ):
        check_effect(url, "tiny", "tiny")
    with pytest.raises(BackendError, match="answers 404 for 'nobody'"):
        check_effect(url, "tiny", "nobody")
    with pytest.raises(BackendError, match="does not answer"):
        check_effect("http://127.0.0.1:9/v1", "tiny", "x")
