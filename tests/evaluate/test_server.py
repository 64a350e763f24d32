"""The openai backend against a local server that behaves, fails, stalls, truncates, and does not see."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from chat_double import ChatDouble, completion
from perception_r1.data.images import model_image
from perception_r1.errors import UserError
from perception_r1.evaluate.results import read_results
from perception_r1.evaluate.run import evaluate
from perception_r1.evaluate.server import ServerStreamer
from perception_r1.openai_server import ChatServer, Retry
from perception_r1.tasks import make_task

pytest.importorskip("aiohttp")

FAST = Retry(attempts=5, base_s=0.01, max_s=0.05, breaker_pause_s=0.02)


@pytest.fixture(scope="module")
def task():
    return make_task("counting", family="qwen3_vl")


def seen_image(body):
    part = next((part for part in body["messages"][-1]["content"] if part["type"] == "image_url"), None)
    if part is None:
        return None
    return Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",", 1)[1])))


def answer(text, body, *, sees=True, **choice):
    """A completion that counts the tokens of the prompt: as many as the picture has patches of 32 pixels, and ten."""
    img = seen_image(body) if sees else None
    made = completion(text, **choice)
    made["usage"]["prompt_tokens"] = 10 + (0 if img is None else (img.width // 32) * (img.height // 32) + 2)
    return made


def run(task, scenes, double, folder, **options):
    server = ChatServer(double.url, "m", concurrency=4, timeout_s=options.pop("timeout_s", 5.0), retry=FAST)
    streamer = ServerStreamer(server, task.family, max_new_tokens=64, **options)
    return streamer, evaluate(task, scenes, streamer, folder, model_name="m", progress=False, resamples=50)


def test_greedy_requests_with_the_very_pixels(tmp_path, task, scenes):
    with ChatDouble(lambda body, n: answer("[]<|im_end|>", body)) as double:
        streamer, metrics = run(task, scenes, double, tmp_path)
        bodies = double.bodies[2:]  # after the look
    assert metrics["n_scored"] == len(scenes)
    assert streamer.notes == []
    results = read_results(tmp_path)
    assert [result.sample.id for result in results] == [sample.id for sample in scenes]
    assert {result.completion.text for result in results} == {"[]"}  # without the end token
    sent = {seen_image(body).tobytes() for body in bodies}
    assert sent == {model_image(result.sample).tobytes() for result in results}
    for body in bodies:
        assert (body["temperature"], body["max_tokens"], body["skip_special_tokens"]) == (0.0, 64, False)
        assert body["messages"][0]["role"] == "system"


def test_failures_stalls_and_half_answers_lose_nothing(tmp_path, task, scenes):
    ways = [500, "drop", ("stall", 0.6), "half", 429]

    def behave(body, n):
        # the first two answers are the look; then every third request goes wrong
        number = len(double.bodies)
        return ways[number % len(ways)] if number > 2 and number % 3 == 0 else answer("[]", body)

    with ChatDouble(behave) as double:
        _, metrics = run(task, scenes, double, tmp_path / "bad", timeout_s=0.3)
    assert metrics["n_scored"] == metrics["n"] == len(scenes)
    with ChatDouble(lambda body, n: answer("[]", body)) as double:
        run(task, scenes, double, tmp_path / "good")
    assert (tmp_path / "bad/samples.jsonl").read_bytes() == (tmp_path / "good/samples.jsonl").read_bytes()


def test_what_the_server_refuses_is_not_scored_and_asked_again(tmp_path, task, scenes):
    def behave(body, n):
        img = seen_image(body)
        is_look = body["max_tokens"] == 1
        return 413 if refuse and not is_look and img.width > 100 else answer("[]", body)

    refuse = True
    with ChatDouble(behave) as double:
        streamer = ServerStreamer(ChatServer(double.url, "m", retry=FAST), task.family)
        metrics = evaluate(task, scenes, streamer, tmp_path, model_name="m", progress=False, resamples=50)
        assert (metrics["n"], metrics["n_scored"]) == (12, 6)
        ((reason, count),) = metrics["unparsable"].items()
        assert count == 6
        assert "not scored: no answer: " in reason
        assert "status 413" in reason
        rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
        assert sum("no_answer" in row for row in rows) == 6
        refuse, before = False, len(double.bodies)
        metrics = evaluate(task, scenes, streamer, tmp_path, model_name="m", progress=False, resamples=50)
        assert len(double.bodies) - before == 6 + 2  # and the look
    assert metrics["n_scored"] == 12
    assert "no_answer" not in (tmp_path / "samples.jsonl").read_text()


def test_a_server_that_does_not_see_is_found_out(tmp_path, task, scenes):
    with (
        ChatDouble(lambda body, n: answer("[]", body, sees=False)) as double,
        pytest.raises(UserError, match=r"does not see the image \(a prompt has 10 tokens with and without it\)"),
    ):
        run(task, scenes, double, tmp_path)


def test_a_server_that_resizes_is_said_so_or_refused(tmp_path, scenes):
    def behave(body, n):
        made = answer("[]", body)
        made["usage"]["prompt_tokens"] += 0 if seen_image(body) is None else 100
        return made

    with ChatDouble(behave) as double:
        streamer, _ = run(make_task("counting", family="qwen3_vl"), scenes, double, tmp_path / "a")
        assert "resizes images by limits of its own" in streamer.notes[0]
        with pytest.raises(UserError, match="pixels of the resized image would be misread"):
            run(make_task("counting", family="qwen2_5_vl"), scenes, double, tmp_path / "b")


def test_fields_that_a_server_does_not_take_are_left_out(tmp_path, task, scenes):
    def behave(body, n):
        return ("status", 422, {}) if "skip_special_tokens" in body else answer("[]", body)

    with ChatDouble(behave) as double:
        streamer, metrics = run(task, scenes, double, tmp_path)
    assert metrics["n_scored"] == 12
    assert streamer.notes == [
        "the server does not take skip_special_tokens, spaces_between_special_tokens: special tokens may be missing"
    ]


def test_a_wrong_model_or_a_server_that_is_gone_ends_it(tmp_path, task, scenes):
    with ChatDouble(lambda body, n: 404) as double, pytest.raises(UserError, match="is the model's name right"):
        run(task, scenes, double, tmp_path)
    with pytest.raises(UserError, match=r"cannot be reached|is down"):
        run(task, scenes, double, tmp_path)


def test_log_probabilities_order_the_boxes(tmp_path):
    from perception_r1.types import BoxTarget, Sample

    path = tmp_path / "a.png"
    Image.new("RGB", (128, 128)).save(path)
    scorer = make_task("detection", family="qwen3_vl")
    sample = Sample("1", "detection", "", BoxTarget(((0, 0, 64, 64),), ("cat",)), str(path), categories=("cat",))
    tokens = [
        "[",
        '{"bbox_2d": [0,',
        " 0, 500, 500]",
        ', "label": "cat"}',
        ", ",
        '{"bbox_2d": [1, 1, 9, 9], "label": "cat"}',
        "]",
    ]
    values = [0.0, -0.2, -0.1, -0.3, 0.0, -2.0, 0.0]
    content = [{"token": t, "logprob": v, "top_logprobs": []} for t, v in zip(tokens, values, strict=True)]

    with ChatDouble(lambda body, n: answer("".join(tokens), body, logprobs={"content": content})) as double:
        _, metrics = run(scorer, [sample], double, tmp_path / "out", logprobs=True)
    (result,) = read_results(tmp_path / "out")
    assert result.scores == pytest.approx((0.818731, 0.135335), abs=1e-6)  # exp(-0.2), exp(-2)
    if "AP" in metrics["metrics"]:
        assert metrics["metrics"]["AP_logprob"]["value"] == pytest.approx(1.0)


PLAIN = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": 0,
}


def without_messages(body):
    return {key: value for key, value in body.items() if key not in ("messages", "model")}


def test_greedy_decoding_is_asked_for_in_full_and_said(tmp_path, task, scenes):
    """A server fills in what is left open from the model's own generation_config (repetition penalty 1.05)."""
    with ChatDouble(lambda body, n: answer("[]", body)) as double:
        _, metrics = run(task, scenes, double, tmp_path)
        sent = [without_messages(body) for body in double.bodies[2:]]
    for body in sent:
        assert PLAIN.items() <= body.items()
        assert metrics["generation"] == {"decoding": body, "notes": []}
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["decoding"] == sent[0]
    with ChatDouble(lambda body, n: 500) as double:  # finished: not asked again, and what was sent is still said
        _, again = run(task, scenes, double, tmp_path)
        assert not double.bodies
    assert again["generation"] == metrics["generation"]


@pytest.mark.parametrize("names_them", [True, False])
def test_a_server_that_knows_only_openais_fields(tmp_path, task, scenes, names_them):
    strange = ("top_k", "min_p", "repetition_penalty", "skip_special_tokens", "spaces_between_special_tokens")

    def behave(body, n):
        refused = [name for name in strange if name in body]
        said = f"Unrecognized request arguments supplied: {', '.join(refused)}" if names_them else "bad request"
        return ("refuse", 400, said) if refused else answer("[]", body)

    with ChatDouble(behave) as double:
        streamer, metrics = run(task, scenes, double, tmp_path)
        assert len(double.bodies) == len(scenes) + (3 if names_them else 4)  # it is found out once
        last = without_messages(double.bodies[-1])
    assert metrics["n_scored"] == 12
    assert metrics["generation"]["decoding"] == last
    assert last.items() >= {"temperature": 0.0, "top_p": 1.0, "presence_penalty": 0.0, "seed": 0}.items()
    assert not last.keys() & set(strange)
    assert metrics["generation"]["notes"] == streamer.notes
    assert "does not take top_k, min_p, repetition_penalty: its own values apply" in streamer.notes[0]
    assert any("its own values apply" in note for note in metrics["notes"])


def test_a_field_can_be_changed_or_left_out_by_request(tmp_path, task, scenes):
    extra = {"max_tokens": None, "max_completion_tokens": 9, "temperature": None, "top_k": 5}

    def behave(body, n):
        return 400 if body.keys() & {"max_tokens", "temperature"} else answer("[]", body)

    with ChatDouble(behave) as double:
        _, metrics = run(task, scenes, double, tmp_path, extra=extra)
        assert [body["max_completion_tokens"] for body in double.bodies] == [1, 1] + [9] * len(scenes)
    assert metrics["generation"]["decoding"]["top_k"] == 5


def test_a_penalty_that_was_asked_for_is_not_left_out(tmp_path, task, scenes):
    with (
        ChatDouble(lambda body, n: 400 if "repetition_penalty" in body else answer("[]", body)) as double,
        pytest.raises(UserError, match="name another with --repetition-penalty 1"),
    ):
        run(task, scenes, double, tmp_path, repetition_penalty=1.05)


def reasoned(body, content, finish="stop", **message):
    made = answer("", body)
    made["choices"][0]["message"] = {"role": "assistant", "content": content, **message}
    made["choices"][0]["finish_reason"] = finish
    return made


BOX = '[{"bbox_2d": [1, 2, 3, 4], "label": "digit"}]'


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("thinking", "content", "reasoning", "finish", "text"),
    [
        (True, f"<answer>{BOX}</answer>", "one", "stop", f"<think>one</think><answer>{BOX}</answer>"),
        (True, None, "one, two", "length", "<think>one, two"),
        (True, None, "one, two", "stop", "<think>one, two</think>"),
        (True, f"<think>one</think><answer>{BOX}</answer>", "one", "stop", f"<think>one</think><answer>{BOX}</answer>"),
        (False, f"\n\n{BOX}<|im_end|>", "one\n", "stop", f"<think>one\n</think>\n\n{BOX}"),
        (False, BOX, None, "stop", BOX),
        (False, BOX, "", "stop", BOX),
        (False, None, BOX, "stop", BOX),  # a parser for models that think, a model that does not
        (False, None, f"I see {BOX}", "length", f"<think>I see {BOX}"),
        (False, None, None, "stop", ""),
    ],
)
def test_what_a_reasoning_parser_took_out_is_put_back(
    tmp_path, scenes, field, thinking, content, reasoning, finish, text
):
    scorer = make_task("counting", family="qwen3_vl", thinking=thinking)
    with ChatDouble(lambda body, n: reasoned(body, content, finish, **{field: reasoning})) as double:
        _, metrics = run(scorer, scenes[:2], double, tmp_path)
    assert [result.completion.text for result in read_results(tmp_path)] == [text, text]
    assert [result.completion.finish_reason for result in read_results(tmp_path)] == [finish, finish]
    assert metrics["n_scored"] == 2
    alone = [note for note in metrics["notes"] if "serve without --reasoning-parser" in note]
    assert len(alone) == (text == reasoning == BOX)
    if text == BOX or text.endswith(("</answer>", f"\n{BOX}")):
        assert read_results(tmp_path)[0].record.pred_xyxy


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "[{"}, {"type": "text", "text": "}]"}]}, "[{}]"),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "a"}]},
                    {"type": "text", "text": "b"},
                ]
            },
            "<think>a</think>b",
        ),
        ({"content": None, "refusal": "I cannot help with that."}, "I cannot help with that."),
        ({"reasoning": None, "content": None, "tool_calls": []}, ""),
    ],
)
def test_contents_of_other_forms(tmp_path, task, scenes, message, text):
    def behave(body, n):
        made = answer("", body)
        made["choices"][0]["message"] = {"role": "assistant", **message}
        return made

    with ChatDouble(behave) as double:
        run(task, scenes[:1], double, tmp_path)
    assert [result.completion.text for result in read_results(tmp_path)] == [text]


def test_answers_without_text_are_warned_of(tmp_path, task, scenes, capsys):
    with ChatDouble(lambda body, n: answer("" if empty else "[]", body)) as double:
        empty = True
        _, metrics = run(task, scenes, double, tmp_path / "a")
        err = capsys.readouterr().err
        assert err.startswith("warning: the first 12 answers are empty (a server that keeps the text elsewhere")
        assert err.count("\n") == 1
        assert metrics["notes"][-1].startswith("every answer is empty (")
        empty = False
        _, metrics = run(task, scenes, double, tmp_path / "b")
    assert capsys.readouterr().err == ""
    assert not any("empty" in note for note in metrics["notes"])
