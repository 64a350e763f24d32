from __future__ import annotations

import math

import pytest

from perception_r1.answers.reader import parse_objects
from perception_r1.evaluate.tokens import TokenCompletion, box_scores, token_ends
from perception_r1.types import Completion


def _completion(pieces):
    text = "".join(piece for piece, _ in pieces)
    ends = token_ends([piece for piece, _ in pieces], text)
    return TokenCompletion(text, "stop", tuple(value for _, value in pieces), ends)


def test_by_hand():
    pieces = [
        ('[{"bbox', -1.0),
        ('_2d": [1, 2, ', -2.0),
        ("3, 4], ", -3.0),
        ('"label": "a"}', -4.0),
        (", ", -9.0),
        ('{"bbox_2d": [1, 2, 3, 4], "label": "b"}', -0.5),
        ("]", -9.0),
    ]
    completion = _completion(pieces)
    parsed = parse_objects(completion.text)
    # The first token also opens the list; what lies between entries belongs to none.
    assert box_scores(completion, parsed) == pytest.approx((math.exp(-2.5), math.exp(-0.5)))


def test_length_of_an_entry_does_not_matter():
    one = _completion([('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]', -1.0)])
    many = _completion([(character, -1.0) for character in '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'])
    assert box_scores(one, parse_objects(one.text)) == pytest.approx(box_scores(many, parse_objects(many.text)))


def test_unknown_tokens_give_no_scores():
    parsed = parse_objects("[]")
    assert box_scores(Completion("[]"), parsed) is None
    assert box_scores(TokenCompletion("[]", "stop", None, ()), parsed) is None
    assert token_ends(["a", "\ufffd"], "aé") is None


def test_real_tokenizer_and_model(tiny, scenes):
    """Log-probabilities of generation are those of a forward pass over the whole text."""
    torch = pytest.importorskip("torch")
    from perception_r1.data.images import model_image, prepare
    from perception_r1.evaluate.generate import TransformersGenerator
    from perception_r1.tasks import make_task

    task = make_task("counting", family="qwen3_vl")
    model, processor = tiny
    samples = [prepare(sample, task.family) for sample in scenes[4:8]]
    prompts = [task.prompt(sample) for sample in samples]
    plain = TransformersGenerator(model, processor, task.family, max_new_tokens=10)(samples, prompts)
    watched = TransformersGenerator(model, processor, task.family, max_new_tokens=10, logprobs=True)(samples, prompts)
    assert [(a.text, a.finish_reason) for a in plain] == [(b.text, b.finish_reason) for b in watched]
    for sample, prompt, completion in zip(samples, prompts, watched, strict=True):
        assert completion.token_ends[-1] == len(completion.text)
        head = processor.apply_chat_template(prompt.messages(), tokenize=False, add_generation_prompt=True)
        batch = processor(text=[head], images=[model_image(sample)], return_tensors="pt")
        ids = torch.tensor([processor.tokenizer.encode(completion.text, add_special_tokens=False)])
        if ids.shape[1] != len(completion.token_logprobs):
            continue  # the text has other tokens when it is read than when it was written
        n = batch["input_ids"].shape[1]
        batch["input_ids"] = torch.cat([batch["input_ids"], ids], dim=1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in batch:
                batch[name] = torch.cat([batch[name], torch.zeros_like(ids)], dim=1)
        with torch.inference_mode():
            logits = model(**batch).logits[0, n - 1 : -1].float()
        logits[:, [processor.tokenizer.convert_tokens_to_ids(t) for t in task.family.image_tokens]] = -torch.inf
        expected = torch.log_softmax(logits, dim=-1).gather(1, ids[0][:, None])[:, 0].tolist()
        assert completion.token_logprobs == pytest.approx(expected, abs=1e-4)
