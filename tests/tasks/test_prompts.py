from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.prompts import PromptFormat

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
SILENT_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIALS = [
    "<s>",
    "</s>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|im_start|>",
    "<|im_end|>",
]
TURN_ENDS = {LLAMA3: "<|eot_id|>", MISTRAL: "</s>", GEMMA: "<end_of_turn>", THINKING: "<|im_end|>"}
TEXTS = [
    ("What is the capital of France?", "Paris", "Answer the question."),
    ("two\nlines\n", "a\n\nb", "Copy [INST] it."),
    ("  spaces  ", "'quoted' 12", "Trim."),
]
CORPUS = [f"{a} {b} {c} assistant system user model think INST" for a, b, c in TEXTS] * 3


def make_tokenizer(
    template: str | None, *, kind: str = "byte", eos: str | None = "</s>"
) -> PreTrainedTokenizerFast:
    """A tiny byte-level BPE like Llama 3's, or one on words marked "▁" like Mistral's."""
    model = Tokenizer(models.BPE(unk_token="<unk>" if kind == "marked" else None))
    specials = [*SPECIALS, *(["<unk>"] if kind == "marked" else [])]
    if kind == "byte":
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        model.decoder = decoders.Metaspace(prepend_scheme="always")
        alphabet = [chr(code) for code in range(32, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def whole_conversation(tokenizer: Any, turns: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=False)
    return list(tokenizer(text.rstrip("\n"), add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("kind", ["byte", "marked"])
@pytest.mark.parametrize("template", [LLAMA3, MISTRAL, GEMMA, THINKING])
@pytest.mark.parametrize(("text", "answer", "description"), TEXTS)
def test_prompt_and_answer_are_the_tokens_of_the_whole_conversation(
    kind: str, template: str, text: str, answer: str, description: str
) -> None:
    tokenizer = make_tokenizer(template, kind=kind)
    form = PromptFormat.for_tokenizer(tokenizer)
    user, reply = (
        {"role": "user", "content": text.strip()},
        {"role": "assistant", "content": answer},
    )
    row = form.encode(tokenizer, text, answer)
    assert row.prompt_ids + row.answer_ids == whole_conversation(tokenizer, [user, reply])
    if template in (LLAMA3, THINKING):
        turns = [{"role": "system", "content": description}, user, reply]
    else:
        turns = [{"role": "user", "content": f"{description}\n\n{text.strip()}"}, reply]
    told = form.encode(tokenizer, text, answer, description)
    assert told.prompt_ids + told.answer_ids == whole_conversation(tokenizer, turns)
    assert tokenizer.convert_ids_to_tokens(told.answer_ids[-1]) == TURN_ENDS[template]
    assert told.answer_ids == row.answer_ids


@pytest.mark.parametrize("template", [LLAMA3, MISTRAL, GEMMA, THINKING])
def test_prompt_is_what_the_template_gives_for_generation(template: str) -> None:
    tokenizer = make_tokenizer(template)
    row = PromptFormat.for_tokenizer(tokenizer).encode(tokenizer, "Hello there")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello there"}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert row.prompt_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert row.answer_ids == []


def test_description_stays_out_of_the_prompt_by_default() -> None:
    tokenizer = make_tokenizer(LLAMA3)
    form = PromptFormat.for_tokenizer(tokenizer)
    assert "system" not in form.prompt("Hi")
    assert "Be brief." in form.prompt("Hi", "Be brief.")


@pytest.mark.parametrize("template", [GEMMA, MISTRAL, SILENT_SYSTEM])
def test_without_a_system_turn_the_description_heads_the_user_turn(template: str) -> None:
    form = PromptFormat.for_tokenizer(make_tokenizer(template))
    assert "Be brief.\n\nHi" in form.prompt("Hi", "Be brief.")


def test_the_users_turn_can_be_asked_for_as_in_the_paper() -> None:
    tokenizer = make_tokenizer(LLAMA3)
    form = PromptFormat.for_tokenizer(tokenizer, description_in="user")
    assert "<|start_header_id|>user<|end_header_id|>\n\nDo it.\n\nHi" in form.prompt("Hi", "Do it.")
    with pytest.raises(ConfigError, match="description_in is 'head'; choose"):
        PromptFormat.for_tokenizer(tokenizer, description_in="head")  # type: ignore[arg-type]


def test_a_tokenizer_without_a_template_gets_the_plain_format() -> None:
    tokenizer = make_tokenizer(None)
    form = PromptFormat.for_tokenizer(tokenizer)
    assert form.prompt("Hi") == "<s>Hi\n"
    assert form.prompt("Hi", "Greet.") == "<s>Greet.\n\nHi\n"
    row = form.encode(tokenizer, "Hi", "Hello")
    assert row.prompt_ids[0] == tokenizer.bos_token_id
    assert row.answer_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row.answer_ids) == "Hello</s>"


def test_a_template_that_writes_no_end_gets_the_eos_token() -> None:
    tokenizer = make_tokenizer(SILENT_SYSTEM)
    row = PromptFormat.for_tokenizer(tokenizer).encode(tokenizer, "Hi", "Hello")
    assert row.answer_ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("template", [LLAMA3, MISTRAL, None])
def test_a_long_row_loses_the_left_of_its_input_alone(template: str | None) -> None:
    tokenizer = make_tokenizer(template)
    form = PromptFormat.for_tokenizer(tokenizer)
    text = " ".join(f"word{i}" for i in range(200))
    for length in (60, 90, 150):
        row = form.encode(tokenizer, text, "the end", "Copy it.", max_length=length)
        whole = form.encode(tokenizer, text, "the end", "Copy it.", max_length=10_000)
        assert row.answer_ids == whole.answer_ids
        assert length - 6 <= len(row.prompt_ids) + len(row.answer_ids) <= length
        shown, frame = tokenizer.decode(row.prompt_ids), form.told
        front, back = frame.head + "Copy it." + frame.middle, frame.header
        assert shown.startswith(front)
        assert shown.endswith(back)
        assert text.endswith(shown.removeprefix(front).removesuffix(back))


def test_a_row_that_cannot_fit_is_refused_with_the_numbers() -> None:
    tokenizer = make_tokenizer(LLAMA3)
    form = PromptFormat.for_tokenizer(tokenizer)
    with pytest.raises(
        ConfigError, match=r"room for \d+ prompt tokens of max_length 40, but needs"
    ):
        form.encode(tokenizer, "Hi", "yes", "a long description " * 20, max_length=40)


def test_a_tokenizer_that_does_not_tell_how_an_answer_ends_is_refused() -> None:
    for template in (None, SILENT_SYSTEM):
        with pytest.raises(ConfigError, match="nothing tells how an answer ends"):
            PromptFormat.for_tokenizer(make_tokenizer(template, eos=None))


def test_a_template_that_drops_or_repeats_the_text_is_refused() -> None:
    for template in ("nothing", "{% for m in messages %}{{ m['content'] * 2 }}{% endfor %}"):
        with pytest.raises(ConfigError, match="drops, repeats or reorders"):
            PromptFormat.for_tokenizer(make_tokenizer(template))


@pytest.mark.parametrize("template", [LLAMA3, MISTRAL, GEMMA, THINKING])
@pytest.mark.parametrize("description", [None, "Add the numbers."])
def test_shots_are_earlier_turns_as_the_template_writes_them(
    template: str, description: str | None
) -> None:
    tokenizer = make_tokenizer(template)
    shots = [(" 1 and 2", "3"), ("4 and 5", "9 ")]
    found = PromptFormat.for_tokenizer(tokenizer).prompt("6 and 1", description, shots)
    turns = [
        turn
        for shown, answer in shots
        for turn in (
            {"role": "user", "content": shown.strip()},
            {"role": "assistant", "content": answer.strip()},
        )
    ]
    turns.append({"role": "user", "content": "6 and 1"})
    if description is not None and template in (LLAMA3, THINKING):
        turns.insert(0, {"role": "system", "content": description})
    elif description is not None:
        turns[0]["content"] = f"{description}\n\n{turns[0]['content']}"
    assert found == tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


def test_shots_without_a_template_stand_in_paragraphs() -> None:
    plain = PromptFormat.for_tokenizer(make_tokenizer(None))
    assert plain.prompt("c", "Say it.", [("a", "b")]) == "<s>Say it.\n\na\nb\n\nc\n"


def test_a_template_of_one_turn_takes_no_shots() -> None:
    one = (
        "{{ messages[0]['content'] }}"
        "{% if messages|length > 1 %}{{ messages[-1]['content'] }}{% endif %}"
    )
    format = PromptFormat.for_tokenizer(make_tokenizer(one))
    assert format.shot is None
    assert format.prompt("a") == "a"
    with pytest.raises(ConfigError, match="chat template takes no turns before the last"):
        format.prompt("a", shots=[("b", "c")])
