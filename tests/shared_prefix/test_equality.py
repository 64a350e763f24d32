"""Log-probabilities and gradients against the plain model, over random batches of every family."""

from __future__ import annotations

import copy
from typing import Any

import batches
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_r1 import shared_prefix


def compare(model: Any, inputs: dict[str, Any], *, shared: bool = True) -> shared_prefix.Stats:
    """Both ways: log-probabilities within 1e-5, gradients within 1e-5 relative, `rope_deltas` the same."""
    weights = torch.randn(inputs["input_ids"].shape, generator=torch.Generator().manual_seed(3))
    shared_prefix.disable(model)
    model.model.rope_deltas = None
    plain, plain_gradients = batches.gradients(model, dict(inputs), weights)
    plain_deltas = model.model.rope_deltas
    model.model.rope_deltas = None
    stats = shared_prefix.enable(model, min_saving=1e-9)
    ours, our_gradients = batches.gradients(model, dict(inputs), weights)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)
    assert batches.worst_gradient(our_gradients, plain_gradients) < 1e-5
    assert (plain_deltas is None) == (model.model.rope_deltas is None)
    assert plain_deltas is None or torch.equal(plain_deltas, model.model.rope_deltas)
    assert stats.shared == int(shared), stats
    return stats


@st.composite
def rows(draw: st.DrawFn) -> list[batches.Row]:
    """One to three prompts, each with no, one or two of three images, answered one to four times; in any order."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        images = draw(st.lists(st.integers(0, 2), max_size=2))
        text = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
        for _ in range(draw(st.integers(1, 4))):
            answer = draw(st.lists(st.integers(1, 3), max_size=6))
            found.append(batches.Row(tuple(images), (3, 4), (10 + number // 2, *text), tuple(answer)))
    return draw(st.permutations(found))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows(), padding=st.sampled_from(["trl", "left", "right"]))
def test_random_batches(family: str, model: Any, rows: list[batches.Row], padding: str) -> None:
    inputs = batches.batch_of(family, rows, padding=padding)
    weights = torch.randn(inputs["input_ids"].shape, generator=torch.Generator().manual_seed(3))
    shared_prefix.disable(model)
    plain, plain_gradients = batches.gradients(model, dict(inputs), weights)
    shared_prefix.enable(model, min_saving=1e-9)
    ours, our_gradients = batches.gradients(model, dict(inputs), weights)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)
    assert batches.worst_gradient(our_gradients, plain_gradients) < 1e-5


def mixed(family: str) -> list[batches.Row]:
    """Two images and one, none, a stranger; answers of many lengths, one of them empty; out of order."""
    rows = (
        batches.group([0, 1], batches.answers(4, [5, 3, 7, 0]))
        + batches.group([2], batches.answers(3, 6, 1), start=9)
        + batches.group([], batches.answers(2, 4, 2), start=20)
        + batches.group([1], batches.answers(1, 3, 5), start=30)
    )
    return [rows[i] for i in (8, 0, 4, 1, 9, 5, 2, 7, 3, 6)]


@pytest.mark.parametrize("padding", ["trl", "right"])
def test_groups_of_different_sizes(family: str, model: Any, padding: str) -> None:
    stats = compare(model, batches.batch_of(family, mixed(family), padding=padding))
    assert stats.images_in == 12 if family == "internvl" else 4 * 2 + 3 + 1
    assert stats.images_encoded == 3  # the pair's two, the other prompt's one; the stranger's is one of them
    assert stats.tokens_forwarded < 0.6 * stats.tokens_in


def test_no_mask_at_all(family: str, model: Any) -> None:
    rows = batches.group([0], batches.answers(4, 5)) + batches.group([0], batches.answers(2, 5, 1), start=9)
    compare(model, batches.batch_of(family, rows, padding="none"))


def test_one_image_two_questions(family: str, model: Any) -> None:
    """The image is part of what is shared; both questions go on from it."""
    rows = [batches.Row((0,), (3,), (7, 8), (a,)) for a in (1, 2)] + [
        batches.Row((0,), (3,), (9, 8), (a,)) for a in (1, 2)
    ]
    stats = compare(model, batches.batch_of(family, rows))
    prompt = len(batches.prompt_of(family, rows[0]))
    assert stats.tokens_in == 4 * (prompt + 1)
    # Either one group (question and answer of each row its own) or one a question, whichever forwards less.
    assert stats.tokens_forwarded == min(prompt - 2 + 4 * 3, 2 * (prompt + 2))


def test_an_image_after_the_question(family: str, model: Any) -> None:
    """Prompts that differ before the image: no token is shared between them, but the image is encoded once."""
    rows = [batches.Row((0,), (first,), (7,), (a,)) for first in (3, 4) for a in (1, 2, 3)]
    stats = compare(model, batches.batch_of(family, rows))
    assert (stats.images_in, stats.images_encoded) == (6, 1)


def test_positions_given(family: str, model: Any) -> None:
    inputs = batches.batch_of(family, mixed(family))
    plain = model.model
    if family == "internvl":
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        compare(model, inputs)
        return
    mrope, _ = plain.get_rope_index(**{k: v for k, v in inputs.items() if k != "pixel_values"})
    compare(model, {**inputs, "position_ids": mrope})
    text = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    compare(model, {**inputs, "position_ids": torch.cat([text[None], mrope])})
    compare(model, {**inputs, "position_ids": text})


@pytest.mark.parametrize("padding", ["trl", "right"])
def test_types_not_given(family: str, model: Any, padding: str) -> None:
    """transformers then counts columns, padding too: rows of one prompt behind other padding are other rows."""
    text = batches.group([], batches.answers(3, [5, 2, 6])) + batches.group([], batches.answers(2, 5), start=9, text=6)
    compare(model, batches.batch_of(family, text, padding=padding, types=False))
    inputs = batches.batch_of(family, mixed(family), padding=padding, types=False)
    if family in ("qwen2_5_vl", "internvl"):
        compare(model, inputs)
    else:
        with pytest.raises(ValueError, match="mm_token_type_ids"):  # as the plain model says
            model(**inputs)


def test_holes_in_the_mask(family: str, model: Any) -> None:
    inputs = batches.batch_of(family, batches.group([0], batches.answers(3, 6)), padding="right")
    inputs["attention_mask"][1, -4] = 0
    inputs["attention_mask"][:, 1] = 0
    compare(model, inputs)


def test_nothing_in_common(family: str, model: Any) -> None:
    rows = [batches.Row((i,), (i + 1,), (9,), (5, 6, 7)) for i in range(3)]
    inputs = batches.batch_of(family, rows)
    stats = compare(model, inputs, shared=False)
    assert stats.plain == {"nothing is shared": 1}
    assert stats.tokens_in == stats.tokens_forwarded == int(inputs["attention_mask"].sum())


def test_too_little_in_common(family: str, model: Any) -> None:
    """Three tokens of a chat template are not worth it."""
    rows = [batches.Row((i,), (1, 2, 3), tuple(range(20, 58)), tuple(range(4, 40))) for i in range(2)]
    stats = shared_prefix.enable(model)
    model(**batches.batch_of(family, rows))
    assert stats.plain == {"nothing is shared": 1}


def test_golden(family: str, model: Any) -> None:
    """One batch of two groups of 8, two batches of one group of 8, and 16 shuffled rows are the same thing."""
    one, two = batches.group([0], batches.answers(8, 6)), batches.group([1], batches.answers(8, 6, 1), start=9)
    shuffle = torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()
    rows = one + two
    shared_prefix.enable(model, min_saving=1e-9)

    def run(chosen: list[batches.Row]) -> torch.Tensor:
        model.zero_grad()
        picked, counts = batches.log_probs(model, batches.batch_of(family, chosen))
        picked[:, -6:].sum().backward()
        assert counts[:, -6:].all()
        return picked[:, -6:].detach()

    def grads() -> dict[str, torch.Tensor]:
        return {n: p.grad.clone() for n, p in model.named_parameters()}

    together, of_together = run(rows), grads()
    shuffled, of_shuffled = run([rows[i] for i in shuffle]), grads()
    first, of_first = run(one), grads()
    second, of_second = run(two), grads()
    assert batches.worst_gradient(of_shuffled, of_together) < 1e-5
    assert batches.worst_gradient({n: of_first[n] + of_second[n] for n in of_first}, of_together) < 1e-5
    torch.testing.assert_close(shuffled, together[shuffle], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([first, second]), together, rtol=0, atol=1e-5)


def test_result_is_laid_out_like_the_plain_one(family: str, model: Any) -> None:
    inputs = batches.batch_of(family, mixed(family))
    mask = inputs["attention_mask"].bool()
    with torch.no_grad():
        plain, as_tuple = (
            model.model(**inputs, use_cache=True),
            model.model(**inputs, return_dict=False, use_cache=True),
        )
        shared_prefix.enable(model)
        ours, ours_tuple = (
            model.model(**inputs, use_cache=True),
            model.model(**inputs, return_dict=False, use_cache=True),
        )
    assert type(ours) is type(plain) and ours.keys() == plain.keys() and len(ours_tuple) == len(as_tuple)
    torch.testing.assert_close(ours.last_hidden_state[mask], plain.last_hidden_state[mask], rtol=0, atol=2e-5)
    torch.testing.assert_close(ours_tuple[0], ours.last_hidden_state)
    assert not ours.last_hidden_state[~mask].any()
    for ours_layer, layer in zip(ours.past_key_values.layers, plain.past_key_values.layers, strict=True):
        assert ours_layer.keys.shape == layer.keys.shape
        where = mask[:, None].expand(layer.keys.shape[:3])
        torch.testing.assert_close(ours_layer.keys[where], layer.keys[where], rtol=0, atol=2e-5)
        torch.testing.assert_close(ours_layer.values[where], layer.values[where], rtol=0, atol=2e-5)
    if family == "internvl":
        torch.testing.assert_close(ours.image_hidden_states, plain.image_hidden_states, rtol=0, atol=1e-5)


def test_labels_and_logits_to_keep(family: str, model: Any) -> None:
    inputs = batches.batch_of(family, batches.group([0], batches.answers(4, 5)))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == batches.IMAGE, -100)
    with torch.no_grad():
        plain = model(**inputs, labels=labels)
        shared_prefix.enable(model)
        ours = model(**inputs, labels=labels)
        torch.testing.assert_close(ours.loss, plain.loss, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(**inputs, logits_to_keep=3).logits, plain.logits[:, -3:], rtol=0, atol=1e-4)


def test_positional_arguments(family: str, model: Any) -> None:
    inputs = batches.batch_of(family, batches.group([], batches.answers(4, 5)))
    with torch.no_grad():
        plain = model.model(**inputs).last_hidden_state
        stats = shared_prefix.enable(model)
        # input_ids is first in every family, whatever comes after
        rest = {k: v for k, v in inputs.items() if k != "input_ids"}
        ours = model.model(inputs["input_ids"], **rest).last_hidden_state
    assert stats.shared == 1
    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours[mask], plain[mask], rtol=0, atol=2e-5)


def test_copy_is_a_model_of_its_own(family: str, model: Any) -> None:
    stats = shared_prefix.enable(model)
    twin = copy.deepcopy(model)
    inputs = batches.batch_of(family, batches.group([0], batches.answers(4, 5)))
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
        assert not twin.model(**inputs).last_hidden_state.any()
    assert stats.calls == 0


def test_disable_restores(family: str, model: Any) -> None:
    before = set(vars(model.model))
    shared_prefix.enable(model)
    assert shared_prefix.is_enabled(model)
    model(**batches.batch_of(family, batches.group([0], batches.answers(4, 5))))
    shared_prefix.disable(model)
    assert not shared_prefix.is_enabled(model)
    assert set(vars(model.model)) == before
    assert model.model.forward.__func__ is type(model.model).forward
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
