"""Generation: the prefill is shared, the tokens are the plain model's."""

from __future__ import annotations

from typing import Any

import batches
import pytest
import torch

from perception_r1 import shared_prefix


def prompts(family: str, counts: tuple[int, ...] = (4, 2), text: tuple[int, ...] = (4, 4)) -> dict[str, Any]:
    """Prompts without answers, left-padded: each as often as `counts` says."""
    rows = [
        row
        for number, (count, length) in enumerate(zip(counts, text, strict=True))
        for row in batches.group([number], [()] * count, start=5 + 7 * number, text=length)
    ]
    return batches.batch_of(family, rows, padding="left")


def run(model: Any, inputs: dict[str, Any], **kwargs: Any) -> torch.Tensor:
    torch.manual_seed(5)
    return model.generate(**inputs, max_new_tokens=8, pad_token_id=0, **kwargs)


@pytest.mark.parametrize("text", [(4, 4), (4, 7)], ids=["equal", "padded"])
@pytest.mark.parametrize(
    "how", [{"do_sample": False}, {"do_sample": True}, {"num_beams": 2}], ids=["greedy", "sample", "beam"]
)
def test_same_tokens(family: str, model: Any, text: tuple[int, int], how: dict[str, Any]) -> None:
    inputs = prompts(family, text=text)
    plain = run(model, inputs, **how)
    deltas = getattr(model.model, "rope_deltas", None)
    stats = shared_prefix.enable(model)
    assert torch.equal(run(model, inputs, **how), plain)
    assert deltas is None or torch.equal(deltas, model.model.rope_deltas)
    assert stats.calls == stats.shared == 1  # decoding is not looked at
    assert stats.images_encoded == 2
    lengths = inputs["attention_mask"].sum(1)
    beams = how.get("num_beams", 1)
    assert stats.tokens_in == beams * int(lengths.sum())
    assert stats.tokens_forwarded <= int(lengths[0] + lengths[-1])


def test_num_return_sequences(family: str, model: Any) -> None:
    inputs = prompts(family, counts=(1, 1), text=(4, 6))
    plain = run(model, inputs, do_sample=True, num_return_sequences=4)
    stats = shared_prefix.enable(model)
    assert torch.equal(run(model, inputs, do_sample=True, num_return_sequences=4), plain)
    assert stats.tokens_in == 4 * int(inputs["attention_mask"].sum())
    assert stats.images_encoded == 2


def test_scores_are_the_plain_ones(family: str, model: Any) -> None:
    """What sampling draws from, at every step."""
    inputs = prompts(family)
    how = {"do_sample": True, "return_dict_in_generate": True, "output_scores": True}
    plain = run(model, inputs, **how)
    shared_prefix.enable(model)
    ours = run(model, inputs, **how)
    for a, b in zip(ours.scores, plain.scores, strict=True):
        torch.testing.assert_close(a.log_softmax(-1), b.log_softmax(-1), rtol=0, atol=2e-5)


def test_without_cache(family: str, model: Any) -> None:
    """Every step is then a forward of all tokens, in groups as long as the answers agree."""
    inputs = prompts(family)
    # An image token that was drawn has no image behind it, and without a cache the next step looks for one.
    how = {"do_sample": True, "use_cache": False, "suppress_tokens": [model.config.image_token_id]}
    plain = run(model, inputs, **how)
    stats = shared_prefix.enable(model)
    assert torch.equal(run(model, inputs, **how), plain)
    assert stats.shared == 8


def test_static_cache_takes_the_plain_path(family: str, model: Any) -> None:
    inputs = prompts(family)
    plain = run(model, inputs, do_sample=False, cache_implementation="static")
    stats = shared_prefix.enable(model)
    assert torch.equal(run(model, inputs, do_sample=False, cache_implementation="static"), plain)
    assert stats.shared == 0


def test_training_after_generation(family: str, model: Any) -> None:
    """`rope_deltas` of the generation must not reach the forward that follows it."""
    inputs = batches.batch_of(family, batches.group([0], batches.answers(4, 5)))
    with torch.no_grad():
        plain, counts = batches.log_probs(model, inputs)
        shared_prefix.enable(model)
        run(model, prompts(family, counts=(2, 1)))
        ours, _ = batches.log_probs(model, inputs)
    torch.testing.assert_close(ours[counts], plain[counts], rtol=0, atol=1e-5)
