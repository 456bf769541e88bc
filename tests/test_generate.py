from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from text_to_lora.encoders import load_encoder
from text_to_lora.encoders.config import TextSettings
from text_to_lora.errors import ConfigError, SpecError, T2LWarning
from text_to_lora.generate import Adapters, TextToLora
from text_to_lora.hypernet import load_hypernet
from text_to_lora.lora import load_adapter

TEXTS = ["Answer in capitals", "Reply with the last word only", "Say yes or no"]
IDS = torch.arange(3, 27).view(2, 12)


@pytest.fixture
def t2l(hypernet_folder: Path) -> TextToLora:
    return TextToLora.from_pretrained(hypernet_folder)


@pytest.fixture
def adapters(t2l: TextToLora) -> Adapters:
    return t2l.generate(TEXTS)


@pytest.fixture
def model(base_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base_folder).eval()


def test_generating_is_encoding_then_the_hypernetwork(
    hypernet_folder: Path, adapters: Adapters
) -> None:
    embeddings = load_encoder("hash").encode([text + "." for text in TEXTS])
    expected = load_hypernet(hypernet_folder).hypernet(embeddings)
    for group in adapters.weights.spec.groups:
        assert torch.equal(adapters.weights.a[group.key], expected.a[group.key])
        assert torch.equal(adapters.weights.b[group.key], expected.b[group.key])


def test_a_batch_gives_the_adapters_of_single_calls(t2l: TextToLora, adapters: Adapters) -> None:
    for place, text in enumerate(TEXTS):
        alone = t2l.generate([text]).weights
        for key in alone.a:
            # products of another batch size round otherwise
            torch.testing.assert_close(
                adapters.weights.delta(key)[place], alone.delta(key)[0], rtol=1e-4, atol=1e-5
            )


def test_strength_multiplies_the_change_and_is_recorded(
    t2l: TextToLora, adapters: Adapters
) -> None:
    strong = t2l.generate(TEXTS, strength=2.5)
    for key in strong.weights.a:
        torch.testing.assert_close(strong.weights.delta(key), 2.5 * adapters.weights.delta(key))
    assert [entry["strength"] for entry in strong.scale(2.0).provenance] == [5.0] * 3


def test_what_the_encoder_takes_in_is_recorded(t2l: TextToLora) -> None:
    with pytest.warns(T2LWarning, match="read 512 of 601 tokens"):
        adapters = t2l.generate(["Say yes", "word " * 600])
    names = ("tokens", "tokens_read", "tokens_unknown")
    assert [[entry[name] for name in names] for entry in adapters.provenance] == [
        [3, 3, 0],
        [601, 512, 0],
    ]
    assert not set(names) & set(adapters.blend().provenance[0])


def test_blend_is_the_weighted_sum_of_changes(adapters: Adapters) -> None:
    blended = adapters.blend([0.5, 0.3, -1.0])
    for key in blended.weights.a:
        first, second, third = adapters.weights.delta(key)
        expected = 0.5 * first + 0.3 * second - third
        torch.testing.assert_close(blended.weights.delta(key)[0], expected, rtol=1e-4, atol=1e-5)
    assert [part["coefficient"] for part in blended.provenance[0]["blend"]] == [0.5, 0.3, -1.0]
    mean = adapters.blend()
    for key in mean.weights.a:
        expected = adapters.weights.delta(key).mean(0)
        torch.testing.assert_close(mean.weights.delta(key)[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="2 coefficients for 3 adapters"):
        adapters.blend([0.5, 0.5])


def test_peft_runs_what_is_saved_as_we_do(adapters: Adapters, model: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    folders = adapters.save(tmp_path / "out")
    names = ["1-answer-in-capitals", "2-reply-with-the-last-word-only", "3-say-yes-or-no"]
    assert [folder.name for folder in folders] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    with torch.no_grad(), adapters.on(model, rows=[1, 1]):
        ours = model(IDS).logits
    theirs = PeftModel.from_pretrained(model, folders[1])(IDS).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_base_is_itself_again_after_the_block_and_merging_gives_the_same_logits(
    t2l: TextToLora, model: Any
) -> None:
    adapters = t2l.generate(TEXTS[:1])
    with torch.no_grad():
        before = model(IDS).logits
        with adapters.on(model):
            expected = model(IDS).logits
        assert not torch.allclose(expected, before, atol=0.1)
        assert torch.equal(model(IDS).logits, before)
        adapters.merge_into(model)
        torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_generated_adapters_can_be_trained_on(t2l: TextToLora, model: Any) -> None:
    adapters = t2l.generate(TEXTS[:1])
    factors = adapters.weights.b[adapters.weights.spec.groups[0].key].requires_grad_()
    with adapters.on(model):
        model(IDS).logits.sum().backward()
    assert factors.grad is not None and factors.grad.abs().sum() > 0


def test_one_adapter_is_the_folder_itself_and_replaces_several_where_that_is_asked_for(
    t2l: TextToLora, adapters: Adapters, model: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    adapters.save(out)
    one = t2l.generate(TEXTS[:1])
    with pytest.raises(ConfigError, match="exists already; pass --overwrite"):
        one.save(out)
    assert one.save(out, overwrite=True) == [out]
    loaded = load_adapter(out, base_config=model.config)
    for key in loaded.a:
        torch.testing.assert_close(loaded.delta(key), one.weights.delta(key))
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["description"] == TEXTS[0]
    assert provenance["hypernet_fingerprint"] == t2l.fingerprint


def test_a_failure_among_several_leaves_nothing(adapters: Adapters, tmp_path: Path) -> None:
    last = adapters.weights.spec.groups[-1].key
    adapters.weights.b[last][2] = torch.nan
    with pytest.raises(SpecError, match="NaN or infinity"):
        adapters.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nan_in_what_was_generated_is_refused(
    t2l: TextToLora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        t2l.encoder, "encode", lambda texts: torch.full((len(texts), 32), torch.nan)
    )
    with pytest.raises(SpecError, match="holds NaN or infinity"):
        t2l.generate(TEXTS)


@pytest.mark.parametrize("texts", [[], ["fine", "  \n"]])
def test_missing_and_empty_descriptions_are_refused(t2l: TextToLora, texts: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"no description|description 2 of 2 is empty \('  "):
        t2l.generate(texts)


def test_an_encoder_is_shared_and_another_is_refused(hypernet_folder: Path) -> None:
    other = load_encoder("hash", settings=TextSettings(prefix="task: "))
    with pytest.raises(ConfigError, match="leave `encoder` out"):
        TextToLora.from_pretrained(hypernet_folder, encoder=other)
    encoder = load_encoder("hash")
    assert TextToLora.from_pretrained(hypernet_folder, encoder=encoder).encoder is encoder


def test_saving_and_loading_gives_the_same_hypernetwork(
    described_hypernet_folder: Path, tmp_path: Path
) -> None:
    t2l = TextToLora.from_pretrained(described_hypernet_folder)
    again = TextToLora.from_pretrained(t2l.save(tmp_path / "copy"))
    for name in ("fingerprint", "training", "spec"):
        assert getattr(again, name) == getattr(t2l, name)
    assert again.nearest(TEXTS) == t2l.nearest(TEXTS)


def test_each_adapter_knows_the_nearest_training_description(
    described_hypernet_folder: Path, tmp_path: Path
) -> None:
    t2l = TextToLora.from_pretrained(described_hypernet_folder)
    adapters = t2l.generate(TEXTS[:2], strength=2.0)
    first, second = adapters.nearest
    assert first is not None and second is not None
    assert first.text == TEXTS[0] and first.cosine == pytest.approx(1, abs=1e-3)
    assert adapters.nearest == t2l.nearest(TEXTS[:2])
    folder = adapters.save(tmp_path / "out")[1]
    recorded = json.loads((folder / "provenance.json").read_text())["nearest_description"]
    assert recorded == {"text": second.text, "cosine": round(second.cosine, 4)}
    assert second.cosine != recorded["cosine"]  # the facade gives the number itself


def test_blends_and_hypernetworks_without_descriptions_have_no_nearest_one(
    described_hypernet_folder: Path, t2l: TextToLora, adapters: Adapters
) -> None:
    blended = TextToLora.from_pretrained(described_hypernet_folder).generate(TEXTS).blend()
    assert blended.nearest == (None,)
    assert adapters.nearest == t2l.nearest(TEXTS) == (None, None, None)
    for entry in (blended.provenance[0], adapters.provenance[0]):
        assert "nearest_description" not in entry


class FakeHub:
    """Keeps what is uploaded in memory."""

    uploads: dict[str, dict[str, bytes]]

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        FakeHub.uploads[repo_id] = {}

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
        for file in sorted(folder_path.rglob("*")):
            if file.is_file():
                name = str(file.relative_to(folder_path))
                FakeHub.uploads[repo_id][name] = file.read_bytes()
        return f"{repo_id}: {commit_message}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    FakeHub.uploads = {}
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    return FakeHub


def test_a_hypernetwork_goes_to_the_hub_and_back(
    t2l: TextToLora, hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert t2l.push_to_hub("me/net") == "me/net: Upload hypernetwork"

    def download(name: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        assert revision == "v1"
        for file, content in hub.uploads[name].items():
            (tmp_path / file).write_bytes(content)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    again = TextToLora.from_pretrained("me/net", revision="v1")
    assert again.fingerprint == t2l.fingerprint


def test_adapters_go_to_the_hub_as_they_are_saved(adapters: Adapters, hub: type[FakeHub]) -> None:
    adapters.push_to_hub("me/three")
    assert len(hub.uploads["me/three"]) == 9  # three files each
    assert "1-answer-in-capitals/adapter_model.safetensors" in hub.uploads["me/three"]


class Unreachable(Exception):
    """As an HTTP client raises it, which knows no OSError."""


@pytest.mark.parametrize("failure", [OSError, Unreachable])
def test_a_refusal_of_the_hub_is_one_line(
    failure: type[Exception],
    t2l: TextToLora,
    hub: type[FakeHub],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise failure("401 unauthorized\nmore")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(ConfigError, match="cannot upload to 'me/net': 401 unauthorized; check"):
        t2l.push_to_hub("me/net")
