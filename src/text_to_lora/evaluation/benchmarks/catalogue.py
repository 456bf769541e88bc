"""Benchmark: one public data set with lm-eval's task for it and descriptions of our own wording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from text_to_lora.errors import ConfigError


@dataclass(frozen=True)
class BenchmarkTask:
    """One task of lm-eval.

    name: lm-eval's; folder: of its definition, below lm-eval's folder of tasks
    family: what kind of work it is; shuffled descriptions come from another family
    split: the rows that are scored
    columns: that the rows of the hub have and the task reads
    metric, filter: lm-eval's names of the figure that stands in tables
    chance: score of guessing among the options; 0 where answers are written out
    descriptions: condition the hypernetwork, one adapter each; the first one goes into the prompt
    runs_code: the answers are programs that are run to be scored
    own_shots: examples of the prompt come with the definition, not from rows of a split
    """

    name: str
    folder: str
    family: str
    split: str
    columns: tuple[str, ...]
    descriptions: tuple[str, ...]
    metric: str
    filter: str = "none"
    chance: float = 0.0
    runs_code: bool = False
    own_shots: bool = False


@dataclass(frozen=True)
class Benchmark:
    """One column of a table: a task, or the plain mean over several.

    hub: data set that lm-eval reads; sets: what its rows are
    differs: in what lm-eval's way of asking is not the paper's; "" where the paper has no figure
    """

    name: str
    title: str
    hub: str
    sets: str
    differs: str
    tasks: tuple[BenchmarkTask, ...] = field(repr=False)

    @property
    def runs_code(self) -> bool:
        """Whether answers are programs that are run to be scored."""
        return any(task.runs_code for task in self.tasks)


_LIKELIHOOD = "options are compared by likelihood; the paper reads the first character of an answer"
_ARC = ("question", "choices", "answerKey")

BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    Benchmark(
        "arc_challenge",
        "ARC-c",
        "allenai/ai2_arc, ARC-Challenge",
        "test",
        _LIKELIHOOD,
        (
            BenchmarkTask(
                "arc_challenge",
                "arc",
                "science",
                "test",
                _ARC,
                (
                    "Pick the correct option of a hard school science question. Knowing a fact is "
                    "rarely enough: combine what you know about nature and think it through.",
                    "You get multiple-choice questions from science exams for pupils, chosen "
                    "because simple word matching fails on them. Choose the right answer.",
                    "Answer demanding questions about biology, physics, chemistry and the Earth by "
                    "selecting the one choice that is scientifically sound.",
                ),
                "acc_norm",
                chance=0.25,
            ),
        ),
    ),
    Benchmark(
        "arc_easy",
        "ARC-e",
        "allenai/ai2_arc, ARC-Easy",
        "test",
        _LIKELIHOOD,
        (
            BenchmarkTask(
                "arc_easy",
                "arc",
                "science",
                "test",
                _ARC,
                (
                    "Answer a simple science question as asked in primary and middle school by "
                    "choosing one of the options.",
                    "Each question tests a basic fact about animals, plants, weather, matter or "
                    "energy. Select the choice that is correct.",
                    "Use everyday science knowledge to choose the right answer among a few.",
                ),
                "acc",
                chance=0.25,
            ),
        ),
    ),
    Benchmark(
        "boolq",
        "BoolQ",
        "aps/super_glue, boolq",
        "validation",
        "yes and no are compared by likelihood; the paper reads true or false off a written answer",
        (
            BenchmarkTask(
                "boolq",
                "super_glue/boolq",
                "reading",
                "validation",
                ("question", "passage", "label"),
                (
                    "Read the passage and say whether the answer to the question is yes or no.",
                    "A short encyclopedia text is followed by a question that somebody typed into "
                    "a search engine. Decide from the text alone: yes or no.",
                    "Judge whether what the question asks is true according to the paragraph.",
                ),
                "acc",
                chance=0.5,
            ),
        ),
    ),
    Benchmark(
        "gsm8k",
        "GSM8K",
        "openai/gsm8k, main",
        "test",
        "lm-eval's own prompt has five examples (none with --num-fewshot 0), the paper's none; the "
        "figure is the last number, commas and signs read right",
        (
            BenchmarkTask(
                "gsm8k",
                "gsm8k",
                "arithmetic",
                "test",
                ("question", "answer"),
                (
                    "Solve a word problem of grade-school arithmetic step by step and finish with "
                    "the resulting number.",
                    "You are told a little story with quantities. Work out each intermediate "
                    "value, then state the final number.",
                    "Reason about amounts, prices, times and rates in several steps to find the "
                    "number that is asked for.",
                ),
                "exact_match",
                "flexible-extract",
            ),
        ),
    ),
    Benchmark(
        "hellaswag",
        "HellaSwag",
        "Rowan/hellaswag",
        "validation",
        _LIKELIHOOD,
        (
            BenchmarkTask(
                "hellaswag",
                "hellaswag",
                "commonsense",
                "validation",
                ("ctx_a", "ctx_b", "activity_label", "endings", "label"),
                (
                    "Choose the sentence that continues a description of an everyday activity in "
                    "the most sensible way.",
                    "A scene is begun and you are to say what happens next. Of several endings "
                    "only one fits how the world works.",
                    "Complete instructions and video captions with the ending that follows "
                    "naturally from what came before.",
                ),
                "acc_norm",
                chance=0.25,
            ),
        ),
    ),
    Benchmark(
        "openbookqa",
        "OpenBookQA",
        "allenai/openbookqa, main",
        "test",
        _LIKELIHOOD,
        (
            BenchmarkTask(
                "openbookqa",
                "openbookqa",
                "science",
                "test",
                ("question_stem", "choices", "answerKey"),
                (
                    "Finish a statement or answer a question by applying an elementary science "
                    "fact together with common sense; choose one option.",
                    "The questions are about how basic scientific principles show in daily life. "
                    "Select the choice that follows from them.",
                    "Recall the school-book fact that a question is about, use it in the new "
                    "situation, and pick the matching answer.",
                ),
                "acc_norm",
                chance=0.25,
            ),
        ),
    ),
    Benchmark(
        "piqa",
        "PIQA",
        "baber/piqa",
        "validation",
        _LIKELIHOOD,
        (
            BenchmarkTask(
                "piqa",
                "piqa",
                "commonsense",
                "validation",
                ("goal", "sol1", "sol2", "label"),
                (
                    "Of two ways to reach a practical goal at home, choose the one that would "
                    "really work.",
                    "Use a feeling for objects, tools and materials to tell the useful solution "
                    "from the one that fails.",
                    "Someone wants to get something done with physical things. Decide which of "
                    "the two instructions makes sense.",
                ),
                "acc",
                chance=0.5,
            ),
        ),
    ),
    Benchmark(
        "winogrande",
        "WinoGrande",
        "allenai/winogrande, winogrande_xl",
        "validation",
        "rows of winogrande_xl, in the paper of winogrande_debiased, whose validation split has as "
        "many; two ways of filling the gap are compared by likelihood",
        (
            BenchmarkTask(
                "winogrande",
                "winogrande",
                "commonsense",
                "validation",
                ("sentence", "option1", "option2", "answer"),
                (
                    "Fill the blank in a sentence with the one of two names or things that makes "
                    "it true.",
                    "Work out whom or what an ambiguous sentence is talking about from the "
                    "meaning of the rest of it.",
                    "Two candidates could stand in the gap, and common sense tells which. Choose it.",
                ),
                "acc",
                chance=0.5,
            ),
        ),
    ),
    Benchmark(
        "humaneval",
        "HumanEval",
        "openai/openai_humaneval",
        "test",
        "the answer continues the function as plain text, in the paper a block of code",
        (
            BenchmarkTask(
                "humaneval",
                "humaneval",
                "code",
                "test",
                ("prompt", "test", "entry_point"),
                (
                    "Complete a Python function from its signature and documentation so that it "
                    "passes hidden tests.",
                    "Write the body of a function that does what the docstring promises, edge "
                    "cases included.",
                    "Turn a specification with examples into correct, running Python code.",
                ),
                "pass@1",
                "create_test",
                runs_code=True,
            ),
        ),
    ),
    Benchmark(
        "mbpp",
        "MBPP",
        "google-research-datasets/mbpp, full",
        "test, task ids 11 to 510",
        "another set: MBPP with three assertions and three examples in the prompt, in the paper the "
        "sanitised MBPP+ without examples",
        (
            BenchmarkTask(
                "mbpp",
                "mbpp",
                "code",
                "test",
                ("text", "test_list"),
                (
                    "Write a short Python function that solves the problem in the sentence and "
                    "fulfils the given assertions.",
                    "Implement what an entry-level programming exercise asks for; the tests show "
                    "the name of the function and how it is called.",
                    "Produce Python code for a small task on lists, strings or numbers, such that "
                    "all asserts hold.",
                ),
                "pass@1",
                runs_code=True,
                own_shots=True,
            ),
        ),
    ),
    Benchmark(
        "medqa",
        "MedQA",
        "GBaker/MedQA-USMLE-4-options-hf",
        "test",
        "",
        (
            BenchmarkTask(
                "medqa_4options",
                "medqa",
                "medicine",
                "test",
                ("sent1", "ending0", "ending1", "ending2", "ending3", "label"),
                (
                    "Answer a question of a medical licensing examination: read the patient's "
                    "case and choose the letter of the best option.",
                    "From symptoms, findings and history find the diagnosis, the mechanism or the "
                    "next step, and give its letter.",
                    "Reason like a physician about a clinical vignette with four choices.",
                ),
                "acc",
                chance=0.25,
            ),
        ),
    ),
    Benchmark(
        "pubmedqa",
        "PubMedQA",
        "qiaojin/PubMedQA, pqa_labeled",
        "every labelled row; lm-eval's own source is a script that datasets 4 refuses",
        "",
        (
            BenchmarkTask(
                "pubmedqa",
                "pubmedqa",
                "medicine",
                "test",
                ("question", "context", "final_decision"),
                (
                    "Decide from the abstract of a biomedical study whether its research question "
                    "is answered by yes, no or maybe.",
                    "You see the findings of a medical paper without its conclusion. Say if they "
                    "support the question: yes, no, or maybe.",
                    "Weigh the evidence in a summary of clinical research and answer the question "
                    "in one word.",
                ),
                "acc",
                chance=1 / 3,
            ),
        ),
    ),
    Benchmark(
        "legalbench",
        "LegalBench",
        "nguha/legalbench",
        "test, the five tasks that lm-eval groups under this name",
        "",
        tuple(
            BenchmarkTask(
                f"legalbench_{name}",
                "legalbench",
                "law",
                "test",
                (*columns, "answer"),
                descriptions,
                "exact_match",
                "get-answer",
            )
            for name, columns, descriptions in (
                (
                    "abercrombie",
                    ("text",),
                    (
                        "Say how distinctive a trademark is for its product: generic, descriptive, "
                        "suggestive, arbitrary or fanciful.",
                        "Classify the mark of some goods on the scale that courts use, from the "
                        "common name of the product to an invented word.",
                        "Name the category of trademark law that a brand name falls into.",
                    ),
                ),
                (
                    "corporate_lobbying",
                    ("bill_title", "bill_summary", "company_name", "company_description"),
                    (
                        "Judge whether a proposed law would matter to a company; answer yes or no.",
                        "Compare the summary of a bill with what a business does, and say if the "
                        "business would lobby about it.",
                        "Is this piece of legislation relevant to the firm described? Yes or no.",
                    ),
                ),
                (
                    "function_of_decision_section",
                    ("Paragraph",),
                    (
                        "Tell what part a paragraph plays in a court's opinion, such as facts, "
                        "issue, rule, analysis or conclusion.",
                        "Label a passage of a judicial decision by its function.",
                        "Lawyers divide rulings into sections. Name the section that this text "
                        "belongs to.",
                    ),
                ),
                (
                    "international_citizenship_questions",
                    ("question",),
                    (
                        "Answer yes or no to a question about the citizenship law of some country.",
                        "Decide whether a state's rules on nationality allow what is asked.",
                        "Questions concern how people gain or lose citizenship around the world; "
                        "reply with yes or no.",
                    ),
                ),
                (
                    "proa",
                    ("text",),
                    (
                        "Decide whether a clause of a statute lets private persons sue; answer yes "
                        "or no.",
                        "Read a legal provision and say if it creates a private right of action.",
                        "Does the text of this law allow an individual to bring a case to court?",
                    ),
                ),
            )
        ),
    ),
)

NAMES: Final = tuple(benchmark.name for benchmark in BENCHMARKS)


def choose_benchmarks(names: Sequence[str] | None) -> list[Benchmark]:
    """Give the benchmarks of these names in the order of the catalogue; None for all.

    Raises ConfigError for an unknown name.
    """
    for name in names or ():
        if name not in NAMES:
            raise ConfigError(f"unknown benchmark {name!r}; choose among {', '.join(NAMES)}")
    return [b for b in BENCHMARKS if names is None or b.name in names]


def donors(task: BenchmarkTask) -> list[BenchmarkTask]:
    """Give the tasks whose descriptions are another's, one of each other family.

    The order is that of the catalogue, from the task's own family on.
    """
    families = list(dict.fromkeys(t.family for b in BENCHMARKS for t in b.tasks))
    start = families.index(task.family)
    first = {t.family: t for b in reversed(BENCHMARKS) for t in reversed(b.tasks)}
    return [first[family] for family in (*families[start + 1 :], *families[:start])]
