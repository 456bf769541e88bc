"""Token states: what the base says of a description, and the parts that read it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.hypernet.config import TokenConfig
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.hypernet.tokens import TokenStates
from text_to_lora.lora import LoraSpec, adapted
from tiny_models import make_config, make_tokenizer, random_adapters

WRITERS = ("self_attn.o_proj", "mlp.down_proj")
TEXTS = ["say lantern", "answer with the word harbour and nothing else", "x"]


@pytest.fixture(scope="module")
def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(make_config()).eval()


@pytest.fixture
def tokens() -> TokenConfig:
    return TokenConfig(
        hidden_size=32, attention_size=8, heads=2, layer_stride=1, direct=WRITERS, key_size=4
    )


def make_spec(base: LlamaForCausalLM) -> LoraSpec:
    return LoraSpec.from_config(base.config, targets="all-linear", rank=4, name="tiny")


def make_network(base: LlamaForCausalLM, tokens: TokenConfig | None) -> Hypernetwork:
    config = HypernetConfig(
        head="joint", embedding_dim=6, latent_size=8, head_in_size=8, dropout=0.0, tokens=tokens
    )
    return Hypernetwork.from_config(config, make_spec(base), torch.Generator().manual_seed(3))


def read(base: LlamaForCausalLM, tokens: TokenConfig, texts: list[str]) -> TokenStates:
    return TokenReader.of_model(base, make_tokenizer(), make_spec(base), tokens)(texts)


def test_states_are_the_hidden_states_of_each_text_alone(
    base: LlamaForCausalLM, tokens: TokenConfig
) -> None:
    states = read(base, tokens, TEXTS)
    for place, text in enumerate(TEXTS):
        ids = torch.tensor([make_tokenizer()("\n".join(text.split())).input_ids])
        with torch.no_grad():
            hidden = base(input_ids=ids, output_hidden_states=True).hidden_states
        length = ids.shape[1]
        assert states.mask[place].sum() == length
        for level in range(2):
            torch.testing.assert_close(
                states.hidden[place, level, :length], hidden[level][0], rtol=1e-4, atol=1e-5
            )


def test_a_token_is_followed_by_the_next_and_a_word_by_the_end_of_the_answer(
    base: LlamaForCausalLM, tokens: TokenConfig
) -> None:
    states = read(base, tokens, ["ab c"])
    tokenizer = make_tokenizer()
    ids = [*tokenizer("ab").input_ids, tokenizer.eos_token_id, *tokenizer("c").input_ids]
    rows = base.get_input_embeddings().weight.detach()[ids]
    words = torch.nn.functional.normalize(rows, dim=-1)
    torch.testing.assert_close(states.words[0], words)
    torch.testing.assert_close(states.following[0, :-1], words[1:])
    torch.testing.assert_close(states.following[0, -1], words[2])  # after the last word: the end


def test_a_long_description_keeps_its_beginning_and_its_end(
    base: LlamaForCausalLM, tokens: TokenConfig
) -> None:
    short = replace(tokens, max_tokens=6)
    states = read(base, short, ["abcdefghijkl"])
    token_ids = make_tokenizer()("abijkl").input_ids
    rows = base.get_input_embeddings().weight.detach()[token_ids]
    torch.testing.assert_close(states.words[0], torch.nn.functional.normalize(rows, dim=-1))


def test_other_texts_of_a_batch_change_nothing(base: LlamaForCausalLM, tokens: TokenConfig) -> None:
    hypernet = make_network(base, tokens)
    embeddings = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
    together = hypernet(embeddings, read(base, tokens, TEXTS))
    for place, text in enumerate(TEXTS):
        alone = hypernet(embeddings[place : place + 1], read(base, tokens, [text]))
        for key in alone.a:
            torch.testing.assert_close(
                together.a[key][place], alone.a[key][0], rtol=1e-4, atol=1e-6
            )
            torch.testing.assert_close(
                together.b[key][place], alone.b[key][0], rtol=1e-4, atol=1e-6
            )


def test_attention_equals_a_loop_over_slots(base: LlamaForCausalLM, tokens: TokenConfig) -> None:
    hypernet = make_network(base, tokens)
    attention = hypernet.attention
    assert attention is not None
    torch.nn.init.normal_(attention.out.weight)
    states = read(base, tokens, TEXTS)
    latent = torch.randn(3, len(hypernet.spec.slots), 8)
    result = attention(latent, states)
    for task in range(3):
        length = int(states.mask[task].sum())
        for slot in range(latent.shape[1]):
            level = int(attention.level_index[slot])
            hidden = attention.state_norm(states.hidden[task, level, :length])
            query = attention.query(attention.query_norm(latent[task, slot]))
            mixed = []
            for q, k, v in zip(
                query.split(4),
                attention.key(hidden).split(4, -1),
                attention.value(hidden).split(4, -1),
                strict=True,
            ):
                mixed.append((k @ q / 2).softmax(0) @ v)
            expected = latent[task, slot] + attention.out(torch.cat(mixed))
            torch.testing.assert_close(result[task, slot], expected, rtol=1e-4, atol=1e-5)


def test_a_rank_that_points_at_a_word_stores_its_embedding_and_the_input_there(
    base: LlamaForCausalLM, tokens: TokenConfig
) -> None:
    """With gates of 1 and one token in reach, B gains its embedding and A the module's input."""
    hypernet, plain = make_network(base, tokens), make_network(base, None)
    plain.load_state_dict(hypernet.state_dict(), strict=False)
    memory = hypernet.memory
    assert memory is not None
    torch.nn.init.zeros_(memory.gates.weight)
    memory.gates.bias.data.copy_(torch.tensor([1.0] * 8 + [-30.0] * 4))
    states = read(base, tokens, ["x"])
    embeddings = torch.randn(1, 6)
    after, before = hypernet(embeddings, states), plain(embeddings)
    for key in after.a:
        direct = key in states.inputs
        gain_a = states.inputs[key][0, :, 0][:, None] if direct else torch.zeros(1)
        gain_b = states.words[0, 0][:, None] if direct else torch.zeros(1)
        expected_a = before.a[key][0] + gain_a
        expected_b = before.b[key][0] + gain_b
        torch.testing.assert_close(after.a[key][0], expected_a, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after.b[key][0], expected_b, rtol=1e-4, atol=1e-5)


def test_an_adapted_base_reads_nothing(base: LlamaForCausalLM, tokens: TokenConfig) -> None:
    reader = TokenReader.of_model(base, make_tokenizer(), make_spec(base), tokens)
    adapter = random_adapters(make_spec(base), 1, torch.Generator().manual_seed(0))
    before = reader(["x"])
    with adapted(base, adapter), pytest.raises(SpecError, match=r"adapted\(\).*leave that block"):
        reader(["x"])
    assert torch.equal(reader(["x"]).hidden, before.hidden)


def test_states_of_some_texts_are_those_of_each(
    base: LlamaForCausalLM, tokens: TokenConfig
) -> None:
    states = read(base, tokens, ["one", "another text"])
    turned = states.select([1, 0, 1])
    for place, text in enumerate((1, 0, 1)):
        assert torch.equal(turned.hidden[place], states.hidden[text])
        assert torch.equal(turned.mask[place], states.mask[text])
        assert torch.equal(turned.words[place], states.words[text])
        assert torch.equal(turned.following[place], states.following[text])
        for key, tensor in states.inputs.items():
            assert torch.equal(turned.inputs[key][place], tensor[text])


def test_a_fresh_network_is_near_one_without_tokens_and_learns_in_every_part(
    base: LlamaForCausalLM, tokens: TokenConfig
) -> None:
    hypernet = make_network(base, tokens)
    assert hypernet.attention is not None
    embeddings, states = torch.randn(3, 6), read(base, tokens, TEXTS)
    for b in hypernet(embeddings, states).b.values():
        assert b.norm(dim=-2).max() < 0.1  # B alone is zero without words
    torch.nn.init.normal_(hypernet.attention.out.weight)
    weights = hypernet(embeddings, states)
    sum((t**2).sum() for side in (weights.a, weights.b) for t in side.values()).backward()
    for part in (hypernet.attention, hypernet.memory):
        assert part is not None
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("module", ["mlp.fc", "mlp.up_proj"])  # unknown, 48 outputs
def test_what_cannot_store_or_read_words_is_refused(
    module: str, base: LlamaForCausalLM, tokens: TokenConfig
) -> None:
    message = rf"direct is \['{module}'\]; leave it empty, .* 32 outputs: mlp\.down_proj, self_attn"
    with pytest.raises(ConfigError, match=message):
        make_network(base, replace(tokens, direct=(module,)))
    with pytest.raises(SpecError, match="reads the base's token states"):
        make_network(base, tokens)(torch.randn(1, 6))
    with pytest.raises(SpecError, match="reads no token states"):
        make_network(base, None)(torch.randn(1, 6), read(base, tokens, ["x"]))
