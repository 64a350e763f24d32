"""Greedy means greedy: nothing of a model's own generation_config.json may change an answer."""

from __future__ import annotations

import json

import pytest

from perception_r1.evaluate.generate import TransformersGenerator
from perception_r1.models.load import load_model
from perception_r1.tasks import make_task

OWN_SETTINGS = {
    # as published with Qwen2-VL and Qwen2.5-VL …
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.001,
    # … and what others publish
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 9,
    "num_beams": 3,
    "length_penalty": 2.0,
    "min_p": 0.2,
    "max_new_tokens": 3,
    "begin_suppress_tokens": [5, 6, 7],
    "exponential_decay_length_penalty": [1, 1.5],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny):
    """The same weights twice, one with a generation_config.json that asks for all sorts of things."""
    places = [tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("own")]
    for place in places:
        tiny[0].save_pretrained(place)
        tiny[1].save_pretrained(place)
    file = places[1] / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **OWN_SETTINGS}))
    return places


@pytest.mark.parametrize("share", [False, True])
def test_a_models_own_generation_config_changes_no_answer(folders, scenes, share):
    task = make_task("counting", family="qwen3_vl")
    prompts = [task.prompt(sample) for sample in scenes[:3]]
    answers = []
    for folder in folders:
        model, processor = load_model(folder)
        before = model.generation_config.to_dict()
        generator = TransformersGenerator(
            model, processor, task.family, max_new_tokens=12, batch_size=3, share=share, logprobs=True
        )
        answers.append(generator(scenes[:3], prompts))
        assert model.generation_config.to_dict() == before  # of a model in training, say
        assert generator.settings["decoding"]["repetition_penalty"] == 1.0
    assert [answer.text for answer in answers[0]] == [answer.text for answer in answers[1]]
    assert answers[0] == answers[1]
    assert max(map(len, (answer.token_logprobs for answer in answers[0]))) > 3


def test_a_penalty_that_was_asked_for_holds(folders, scenes):
    task = make_task("counting", family="qwen3_vl")
    texts = {}
    for penalty in (1.0, 3.0):
        generator = TransformersGenerator(
            *load_model(folders[1]), task.family, max_new_tokens=12, repetition_penalty=penalty
        )
        texts[penalty] = generator(scenes[:1], [task.prompt(scenes[0])])[0].text
        assert generator.decoding["repetition_penalty"] == penalty
    assert texts[1.0] != texts[3.0]
