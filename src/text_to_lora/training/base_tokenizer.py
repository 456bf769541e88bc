"""The embedded base's tokenizer: the encoder's uncased word pieces, with case, lines and spacing kept.

The base starts from the weights of an uncased encoder, so its tokens have to be that encoder's
pieces. What they drop is written as marks of its own, and read back when decoding: `↑` before a
word with a capital, `⇧` before a word in capitals, `⏎` for a line break, `␣` and `⌣` where a space
or its absence beside punctuation is not the usual one. Everything is done by rules inside one
`tokenizer.json`, so plain `AutoTokenizer` loads it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits, punctuation

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, TASK, INPUT, ANSWER, END = "[PAD]", "[UNK]", "[TASK]", "[INPUT]", "[ANSWER]", "[END]"
SPECIAL_TOKENS = (PAD, UNKNOWN, TASK, INPUT, ANSWER, END)
MARKS = ("↑", "⇧", "⏎", "␣", "⌣")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% if message['content'] %}[TASK] {{ message['content'] }} "
    "{% endif %}"
    "{% elif message['role'] == 'user' %}[INPUT] {{ message['content'] }} "
    "{% else %}[ANSWER] {{ message['content'] }}[END]{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[ANSWER]{% endif %}"
)

_CLOSING = r".,;:!?)\]}%>”"  # usually no space before, one after
_OPENING = r"(\[{$#@<“"  # usually one space before, none after
_JOINING = r"'\-/_"  # usually no space on either side


def _normalizer() -> normalizers.Normalizer:
    # Every pattern consumes what it marks: matches of width zero break the library's alignments.
    after, before = rf"(?=[^\s{_CLOSING}{_JOINING}])", rf"(?<=[^\s{_OPENING}{_CLOSING}{_JOINING}])"
    rules = [
        (r"[“”]", '"'),
        (r"[‘’]", "'"),
        (r'(?<![^\s(\[{:,])"', "“"),
        (r'"', "”"),
        (rf"(?<=\S)[^\S\n]+(?=[{_CLOSING}{_JOINING}])", " ␣ "),
        (rf"(?<=[{_OPENING}{_JOINING}])[^\S\n]+(?=\S)", " ␣ "),
        *((rf"{re.escape(mark)}{after}", f"{mark} ⌣ ") for mark in ".,;:!?)]}%>”"),
        *((rf"{before}{re.escape(mark)}", f" ⌣ {mark}") for mark in "([{$#@<“"),
        *((rf"\b{letter}(?![A-Za-z]*[A-Z])", f"↑ {letter.lower()}") for letter in ascii_uppercase),
        *((rf"\b{letter}(?=[A-Z]+\b)", f"⇧ {letter.lower()}") for letter in ascii_uppercase),
        (r"\n", " ⏎ "),
    ]
    steps: list[normalizers.Normalizer] = [
        normalizers.Replace(Regex(pattern), text) for pattern, text in rules
    ]
    return normalizers.Sequence([*steps, normalizers.BertNormalizer(lowercase=True)])


def _decoder() -> decoders.Decoder:
    rules = [
        (rf" (?=[{_CLOSING}])", ""),
        (rf"(?<=[{_OPENING}]) ", ""),
        (rf" ?(?<! ␣ )(?=[{_JOINING}])", ""),
        (rf"(?<=[{_JOINING}]) (?!␣)", ""),
        (r" ?⌣ ?", ""),
        (r" ?␣ ?", " "),
        (r" ?⏎ ?", "\n"),
        *((f"(?<=↑ ){letter}", letter.upper()) for letter in ascii_lowercase),
        *((f"(?<=⇧ [A-Za-z]{{0,40}}){letter}", letter.upper()) for letter in ascii_lowercase),
        (r"[↑⇧] ?", ""),
        (r"[“”]", '"'),
    ]
    return decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            *(decoders.Replace(Regex(pattern), text) for pattern, text in rules),
        ]
    )


def assemble(vocabulary: dict[str, int]) -> Tokenizer:
    """Give the tokenizer over a word-piece vocabulary that holds SPECIAL_TOKENS and MARKS."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = _decoder()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def build_tokenizer(
    encoder_folder: Path, texts: Iterable[str], *, vocab_size: int
) -> tuple[PreTrainedTokenizerFast, dict[int, int]]:
    """Trim an uncased encoder's vocabulary to the pieces that `texts` use most.

    encoder_folder: holds the encoder's `tokenizer.json`
    Returns the tokenizer, and for each new id the encoder's id whose embedding it starts from.
    """
    full = json.loads((encoder_folder / "tokenizer.json").read_text(encoding="utf-8"))
    pieces: dict[str, int] = full["model"]["vocab"]
    counter = assemble(
        {
            **pieces,
            **{
                t: len(pieces) + i
                for i, t in enumerate((*SPECIAL_TOKENS, *MARKS))
                if t not in pieces
            },
        }
    )
    counts: Counter[str] = Counter()
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == 1024:
            for encoding in counter.encode_batch_fast(batch, add_special_tokens=False):
                counts.update(encoding.tokens)
            batch.clear()
    for encoding in counter.encode_batch_fast(batch, add_special_tokens=False):
        counts.update(encoding.tokens)
    letters = ascii_letters.lower() + digits
    kept = [*SPECIAL_TOKENS, *MARKS, *punctuation, "“", "”", *dict.fromkeys(letters)]
    kept += [f"##{letter}" for letter in dict.fromkeys(letters)]
    ranked = sorted(pieces, key=lambda piece: (-counts[piece], pieces[piece]))
    vocabulary = {p: i for i, p in enumerate(list(dict.fromkeys((*kept, *ranked)))[:vocab_size])}
    like = {PAD: "[PAD]", TASK: "task", INPUT: "text", ANSWER: "answer", END: "[SEP]"}
    like |= {"↑": "capital", "⇧": "capitals", "⏎": "line", "␣": "space", "⌣": "joint"}
    origin = {i: pieces.get(like.get(p, p), pieces["[UNK]"]) for p, i in vocabulary.items()}
    make_tokenizer: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    tokenizer = make_tokenizer(
        tokenizer_object=assemble(vocabulary),
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[TASK, INPUT, ANSWER],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    return tokenizer, origin
