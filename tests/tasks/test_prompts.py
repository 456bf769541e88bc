from datetime import datetime
from functools import cache
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
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_TURN = (
    "<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}"
    "{% set content = m['content'].split('</think>')[-1] %}<assistant>{{ content }}{{ eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
QWEN_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CHANNELS = (  # as gpt-oss
    "{%- macro today() -%}{{- 'Today: ' + strftime_now('%Y-%m-%d') }}{%- endmacro -%}"
    "<|im_start|>system\n{{ today() }}<|im_end|>{% for m in messages %}"
    "<|im_start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|eot_id|>final{% endif %}"
    "<|end_header_id|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
LAST_TURN = (  # as Mistral Nemo: the system turn stands in the last user turn
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if m['role'] == 'user' %}[INST]{% if loop.last and system is defined %}{{ system }}\n\n"
    "{% endif %}{{ m['content'] }}[/INST]{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
SPECIALS = ["<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPECIALS += ["<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>"]
TURN_ENDS = {LLAMA3: "<|eot_id|>", MISTRAL: "</s>", GEMMA: "<end_of_turn>", THINKING: "<|im_end|>"}
TEXTS = [
    ("What is the capital of France?", "Paris", "Answer the question."),
    ("two\nlines\n", "a\n\nb", "Copy [INST] it."),
    ("  spaces  ", "'quoted' 12", "Trim."),
]
CORPUS = [f"{a} {b} {c} assistant system user model think INST" for a, b, c in TEXTS] * 3


@cache
def train_tokenizer(kind: str) -> str:
    """A tiny byte-level BPE like Llama 3's, or one on words marked "▁" like Mistral's, as JSON."""
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
    return model.to_str()


def make_tokenizer(
    template: str | None, *, kind: str = "byte", eos: str | None = "</s>"
) -> PreTrainedTokenizerFast:
    model = Tokenizer.from_str(train_tokenizer(kind))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def engine_prompt(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    """What an engine sends."""
    return str(
        tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    )


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
    user, reply = turn("user", text.strip()), turn("assistant", answer)
    row = form.encode(tokenizer, text, answer)
    assert row.prompt_ids + row.answer_ids == whole_conversation(tokenizer, [user, reply])
    if template in (LLAMA3, THINKING):
        turns = [turn("system", description), user, reply]
    else:
        turns = [turn("user", f"{description}\n\n{text.strip()}"), reply]
    described = form.encode(tokenizer, text, answer, description)
    assert described.prompt_ids + described.answer_ids == whole_conversation(tokenizer, turns)
    assert tokenizer.convert_ids_to_tokens(described.answer_ids[-1]) == TURN_ENDS[template]
    assert described.answer_ids == row.answer_ids


class Clock:
    """Stands for `datetime`; it is always this day."""

    def __init__(self, *day: int) -> None:
        self.day = datetime(*day)  # type: ignore[arg-type]

    def now(self) -> datetime:
        return self.day


@pytest.mark.parametrize(
    "template", [LLAMA3, MISTRAL, GEMMA, THINKING, SMOLLM2, R1, QWEN_THINKING, CHANNELS]
)
@pytest.mark.parametrize("description", [None, "Say it."])
@pytest.mark.parametrize("shots", [[], [(" Blood?", "red"), ("Two\nlines", "b ")]])
def test_prompts_are_those_of_the_template_for_generation(
    template: str,
    description: str | None,
    shots: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock(2024, 7, 26))
    tokenizer = make_tokenizer(template)
    form = PromptFormat.for_tokenizer(tokenizer)
    turns = [t for a, b in shots for t in (turn("user", a.strip()), turn("assistant", b.strip()))]
    turns.append(turn("user", "Name it."))
    if description is not None and template in (MISTRAL, GEMMA):
        turns[0] = turn("user", f"{description}\n\n{turns[0]['content']}")
    elif description is not None:
        turns.insert(0, turn("system", description))
    prompt = form.prompt("Name it.", description, shots)
    assert prompt == engine_prompt(tokenizer, turns)
    if not shots:
        row = form.encode(tokenizer, "Name it.", description=description)
        assert row.prompt_ids == tokenizer(prompt, add_special_tokens=False)["input_ids"]
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
        shown, frame = tokenizer.decode(row.prompt_ids), form.described
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


def test_shots_without_a_template_stand_in_paragraphs() -> None:
    plain = PromptFormat.for_tokenizer(make_tokenizer(None))
    assert plain.prompt("c", "Say it.", [("a", "b")]) == "<s>Say it.\n\na\nb\n\nc\n"


def test_a_template_of_one_turn_takes_no_shots() -> None:
    one = "{{ messages[0]['content'] }}{% if messages|length > 1 %}{{ messages[-1]['content'] }}{% endif %}"
    format = PromptFormat.for_tokenizer(make_tokenizer(one))
    assert format.shot is None
    assert format.prompt("a") == "a"
    with pytest.raises(ConfigError, match="chat template takes no turns before the last"):
        format.prompt("a", shots=[("b", "c")])


def test_the_default_system_turn_of_smollm2_stands_in_the_bare_prompt_alone() -> None:
    form = PromptFormat.for_tokenizer(make_tokenizer(SMOLLM2))
    question = "<|im_start|>user\nName it.<|im_end|>\n<|im_start|>assistant\n"
    assert form.prompt("Name it.") == DEFAULT_TURN + question
    described = form.prompt("Name it.", "Say the colour.")
    assert described == f"<|im_start|>system\nSay the colour.<|im_end|>\n{question}"
    assert (form.bare.lead, form.bare.end) == ("", "<|im_end|>")


@pytest.mark.parametrize("template", [R1, QWEN_THINKING])
def test_a_prompt_that_opens_a_thought_is_that_of_the_template_and_the_answer_closes_it(
    template: str,
) -> None:
    tokenizer = make_tokenizer(template)
    form = PromptFormat.for_tokenizer(tokenizer)
    prompt = engine_prompt(tokenizer, [turn("user", "Hi")])
    assert prompt.endswith("<think>\n")
    assert form.prompt("Hi") == prompt
    row = form.encode(tokenizer, "Hi", "Hello")
    assert tokenizer.decode(row.prompt_ids) == prompt
    assert tokenizer.decode(row.answer_ids).startswith("\n</think>\n\nHello")
    assert form.read_answer(tokenizer, row.answer_ids) == "Hello"
    thought = tokenizer("I greet.\n</think>\n\nHello", add_special_tokens=False).input_ids
    assert form.read_answer(tokenizer, [*thought, tokenizer.eos_token_id]) == "Hello"
    unfinished = tokenizer("I greet", add_special_tokens=False).input_ids
    assert form.read_answer(tokenizer, unfinished) == "I greet"


def test_an_answer_after_a_head_of_special_tokens_is_read_without_it() -> None:
    tokenizer = make_tokenizer(CHANNELS)
    form = PromptFormat.for_tokenizer(tokenizer)
    assert form.bare.lead == "<|eot_id|>final<|end_header_id|>"
    row = form.encode(tokenizer, "Hi", "Hello")
    assert form.read_answer(tokenizer, row.answer_ids) == "Hello"


def test_a_prompt_that_no_answer_of_the_template_follows_is_refused() -> None:
    template = QWEN_THINKING.replace("assistant\n<think>\n{%", "assistant\nSure, {%")
    with pytest.raises(ConfigError, match=r"ends a prompt with .*Sure, ', but writes .* before an"):
        PromptFormat.for_tokenizer(make_tokenizer(template))


FORMATS = ["%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%d %b %Y", "%A, %-d/%-m/%y %H:%M:%S %p %j %F"]


@pytest.mark.parametrize("format", FORMATS)
def test_the_date_of_a_template_that_reads_the_clock_never_changes(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = "{% set today = strftime_now('FORMAT') %}{{ today }}\n" + THINKING
    tokenizer = make_tokenizer(dated.replace("FORMAT", format))
    prompts = []
    for year in (2024, 2031):
        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock(year, 1, 1))
        prompts.append(PromptFormat.for_tokenizer(tokenizer).prompt("Hi"))
    assert prompts[0] == prompts[1]
    assert prompts[0].startswith(datetime(2024, 7, 26).strftime(format) + "\n<|im_start|>user\nHi")


@pytest.mark.parametrize("start", ["", "\n", "  {% if true %}x{% endif %}", "\n  {{ 'a' }}"])
def test_a_fixed_clock_changes_nothing_else_of_a_template(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock(2024, 7, 26))
    tokenizer = make_tokenizer(f"{start}{{{{ strftime_now('%d') }}}}{THINKING}")
    form = PromptFormat.for_tokenizer(tokenizer)
    assert form.prompt("Hi") == engine_prompt(tokenizer, [turn("user", "Hi")])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}",
            r"fails for turns of user \(TemplateSyntaxError: Unexpected end",
        ),
        ("{{ today() }}", r"fails for turns of user \(UndefinedError: 'today' is undefined"),
        ("{{ messages | fancy }}", r"\(TemplateAssertionError: No filter named 'fancy'"),
        ("{% for t in tools %}{{ t }}{% endfor %}", r"\(TypeError: 'NoneType' object is not iter"),
        ("{{ messages[0].a.b }}", r"\(UndefinedError: 'dict object' has no attribute 'a'"),
        ("{{ 1 / 0 }}", r"\(ZeroDivisionError: division by zero\)"),
        ("{{ raise_exception('No system turn\nat all') }}", r"\(TemplateError: No system turn\)"),
        (
            {"tool_use": LLAMA3, "rag": LLAMA3},
            "has the chat templates rag, tool_use and none named 'default'; set chat_template",
        ),
        ({1: LLAMA3, "rag": LLAMA3}, "has the chat templates 1, rag and none named 'default'"),
        ({"default": 3}, "chat template is 3, no text; set another chat_template"),
        (3, "chat template is 3, no text; set another chat_template"),
        (LLAMA3.replace("| trim", "| replace('&', 'and')"), "changes the texts that it is given"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(template: Any, message: str) -> None:
    tokenizer = make_tokenizer("x")
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=message) as caught:
        PromptFormat.for_tokenizer(tokenizer)
    assert "\n" not in str(caught.value)


def test_a_list_of_templates_with_a_default_gives_that() -> None:
    tokenizer = make_tokenizer("x")
    tokenizer.chat_template = {"default": LLAMA3, "rag": "x"}
    form = PromptFormat.for_tokenizer(tokenizer)
    assert form == PromptFormat.for_tokenizer(make_tokenizer(LLAMA3))


def test_a_template_that_writes_the_system_turn_last_takes_shots_without_a_description() -> None:
    tokenizer = make_tokenizer(LAST_TURN)
    form = PromptFormat.for_tokenizer(tokenizer)
    turns = [turn("system", "Be brief."), turn("user", "Hi")]
    assert form.prompt("Hi", "Be brief.") == engine_prompt(tokenizer, turns)
    turns = [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    assert form.prompt("c", shots=[("a", "b")]) == engine_prompt(tokenizer, turns)
    with pytest.raises(ConfigError, match="writes the description after earlier turns; leave"):
        form.prompt("c", "Be brief.", [("a", "b")])
