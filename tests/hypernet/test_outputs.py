"""z-scores and scaled ΔW, undone as section 1.7 of the paper's digest says."""

from __future__ import annotations

import torch
from torch import Tensor

from text_to_lora.hypernet.outputs import Delta, Direct, ZScore
from text_to_lora.lora import LoraSpec, LoraWeights


def make_library(spec: LoraSpec, adapters: int) -> LoraWeights:
    def draw(*shape: int) -> Tensor:
        return 2 + 3 * torch.randn(adapters, *shape)

    rank = spec.rank
    return LoraWeights(
        spec,
        {g.key: draw(len(g.layers), rank, g.in_features) for g in spec.groups},
        {g.key: draw(len(g.layers), g.out_features, rank) for g in spec.groups},
    )


def test_scores_of_a_library_give_the_library_back(spec: LoraSpec) -> None:
    library = make_library(spec, 5)
    output = ZScore(spec.groups, spec.rank)
    output.set_library(library)
    scores = [
        {key: (w - w.mean(0)) / (w.std(0) + 1e-10) for key, w in factors.items()}
        for factors in (library.a, library.b)
    ]
    for restored, factors in zip(output(*scores), (library.a, library.b), strict=True):
        for key, values in factors.items():
            torch.testing.assert_close(restored[key], values)


def test_invert_gives_what_a_head_has_to_predict(spec: LoraSpec) -> None:
    library = make_library(spec, 5)
    zscore = ZScore(spec.groups, spec.rank)
    zscore.set_library(library)
    for output in (Direct(), Delta(400.0), zscore):
        before = [{k: f.clone() for k, f in side.items()} for side in (library.a, library.b)]
        predicted = output.invert(library.a, library.b)
        for side, other in zip((library.a, library.b), before, strict=True):
            assert all(torch.equal(side[key], other[key]) for key in side)  # left as they were
        copies = [{key: f.clone() for key, f in side.items()} for side in predicted]
        for restored, wanted in zip(output(*copies), before, strict=True):
            for key, factor in wanted.items():
                torch.testing.assert_close(restored[key], factor)
    key = spec.groups[0].key
    scores = zscore.invert(library.a, library.b)[1][key]
    wanted = (library.b[key] - library.b[key].mean(0)) / (library.b[key].std(0) + 1e-10)
    torch.testing.assert_close(scores, wanted)
    product = Delta(400.0).invert(library.a, library.b)
    expected = 400 * library.b[key] @ library.a[key]
    # fp32 sums of numbers of some thousands that cancel
    torch.testing.assert_close(product[1][key] @ product[0][key], expected, rtol=1e-4, atol=1e-2)


def test_outputs_hold_no_second_copy_of_the_factors(spec: LoraSpec) -> None:
    for output in (Delta(1e4), ZScore(spec.groups, spec.rank)):
        given = make_library(spec, 2)
        a, b = output(dict(given.a), dict(given.b))
        for factors, restored in ((given.a, a), (given.b, b)):
            for key, factor in factors.items():
                assert restored[key].data_ptr() == factor.data_ptr()
