from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from perception_r1.analysis.ablate import check_done, job_recipe, too_little_room
from perception_r1.analysis.grid import Job, jobs_of, load_grid
from perception_r1.analysis.grid_table import (
    direction,
    grid_rows,
    markdown,
    pooled,
    pooled_difference,
    read_published,
)
from perception_r1.analysis.job_record import write_record
from perception_r1.analysis.runs import as_settings
from perception_r1.errors import RecipeError, UserError

MINI = Path(__file__).resolve().parents[2] / "recipes" / "mini"
GRID = """
name: g
recipe: base.yaml
metric: accuracy
seeds: [0, 1]
set: {reward.preset: released}
reference: rl
published: {table: ablation, column: pixmo/val}
cases:
  base: {stage: base, against: base, published: w/o RL}
  sft-rl: {after: sft, published: SFT+RL}
  sft: {stage: sft, published: SFT only}
  rl: {against: base, published: Perception-R1}
  same: {same_as: rl, against: sft}
  wide: {set: {grpo: {num_generations: 16}, reward.components: {count: 1.0}}}
"""
BASE = """
name: b
task: counting
model: some/model
family: qwen3_vl
data: {train: [{source: digits, options: {n: 8}}], eval: [{source: digits, options: {n: 8}}]}
sft: {}
grpo: {num_generations: 8, beta: 0.0}
"""


@pytest.fixture()
def grid(tmp_path):
    (tmp_path / "g.yaml").write_text(GRID)
    (tmp_path / "base.yaml").write_text(BASE)
    return load_grid(tmp_path / "g.yaml")


def test_runs_come_in_an_order_that_works(grid):
    names = [(job.case, job.seed) for job in jobs_of([grid], "out")]
    assert names == [
        ("base", None),
        *((case, seed) for seed in (0, 1) for case in ("sft", "rl", "sft-rl")),
        ("wide", 0),
        ("wide", 1),  # nothing is published of it: after all that can be compared
    ]
    assert jobs_of([grid], "out")[1].folder == Path("out/g/sft/seed-0")
    # What a case starts from, or shows, comes along.
    assert [(j.case, j.seed) for j in jobs_of([grid], "o", only=["g/sft-rl"], seeds=[1])] == [("sft", 1), ("sft-rl", 1)]
    assert {job.case for job in jobs_of([grid], "o", only=["g/same"])} == {"rl"}
    assert jobs_of([grid], "o", only=["other"]) == []


def test_of_several_grids_the_first_seed_comes_first(grid):
    other = grid.model_copy(update={"name": "h", "seeds": (0, 2)})
    found = [(job.seed, job.grid.name) for job in jobs_of([grid, other], "out") if job.case == "rl"]
    assert found == [(0, "g"), (0, "h"), (1, "g"), (2, "h")]


def test_what_a_published_row_stands_against_is_run_with_it(grid):
    cases = {**grid.cases, "rl": grid.cases["rl"].model_copy(update={"against": "wide"})}
    names = [job.case for job in jobs_of([grid.model_copy(update={"cases": cases, "seeds": (0,)})], "out")]
    assert names == ["base", "sft", "rl", "wide", "sft-rl"]


def test_a_runs_recipe_is_the_grids_then_the_cases_then_the_seed(grid):
    recipe = job_recipe(Job(grid, "wide", 1, Path("x")), "out")
    assert (recipe.reward.preset, recipe.reward.components) == ("released", {"count": 1.0})
    assert (recipe.grpo["num_generations"], recipe.grpo["beta"], recipe.grpo["seed"]) == (16, 0.0, 1)
    assert (recipe.data.seed, recipe.sft["seed"], recipe.name) == (1, 1, "g-wide")
    last = grid.model_copy(update={"last": {"grpo.num_generations": 4}})
    assert job_recipe(Job(last, "wide", 0, Path("x")), "out").grpo["num_generations"] == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stage: sft", "stage: nothing", "cases.sft.stage"),
        ("after: sft", "after: nobody", "'sft-rl': after names no case"),
        ("after: sft", "after: base", "has no model"),
        ("after: sft", "after: same", "'sft-rl': after 'same', which is not run: name 'rl'"),
        ("same: {same_as: rl", "twice: {same_as: same}\n  same: {same_as: rl", "'twice': same_as 'same', which is not"),
        ("reference: rl", "reference: nobody", "reference names no case"),
        ("metric: accuracy", "metrics: accuracy", "metric"),
        ("name: g", "name: [", "cannot be read"),
    ],
)
def test_a_grid_with_a_mistake_says_where(tmp_path, old, new, message):
    path = tmp_path / "g.yaml"
    path.write_text(GRID.replace(old, new, 1))
    with pytest.raises(RecipeError, match="g.yaml: .*" + message):
        load_grid(path)


def test_changes_as_settings():
    changes = {"grpo": {"beta": 0.1, "x": {"y": 1}}, "reward.components": {"f1": 1.0}, "reward": {"options": {}}}
    assert as_settings(changes) == ["grpo.beta=0.1", "grpo.x.y=1", 'reward.components={"f1": 1.0}', "reward.options={}"]


def test_the_grids_of_the_repository_are_sound(tmp_path):
    pytest.importorskip("sklearn")
    from perception_r1.demo import demo_recipe
    from perception_r1.recipe.build import recipe_task

    published = read_published()
    rows = {"ablation": 0, "coco2017-reward-ablation": 0}
    for path in sorted(MINI.glob("*.yaml")):
        grid = load_grid(path)
        assert path.stem == grid.name and grid.seeds == (0, 1, 2)
        prompts = set()
        for job in jobs_of([grid], tmp_path):
            recipe = job_recipe(
                job, tmp_path, lambda name, out, seed, settings: demo_recipe(name.split(":")[1], out, seed, settings)
            )
            recipe_task(recipe)  # the reward exists
            table = recipe.grpo or {}
            prompts.add(table["per_device_train_batch_size"] / table["num_generations"])
        assert len(prompts) == 1  # as many prompts a step, however many rollouts
        for row in grid_rows(grid, tmp_path, published):
            place = grid.cases[row.case].published
            if place is not None:
                assert row.published is not None or row.case == "reward-1-format"
                rows[place.table if hasattr(place, "table") and place.table in rows else "ablation"] += 1
    assert rows["coco2017-reward-ablation"] == 5


def test_the_grids_leave_room_for_the_right_answers(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("transformers")
    from perception_r1.cli.ablate import _demo_recipe

    few = {
        "data.eval": [{"source": "digits", "split": "heldout", "options": {"n": 20, "min_digits": 5, "max_digits": 5}}]
    }
    for path in sorted(MINI.glob("*.yaml")):
        grid = load_grid(path).model_copy(update={"last": few})
        for case in ("base", "sft", "thinking"):
            job = Job(grid, case, 0, tmp_path)
            assert too_little_room(job, job_recipe(job, tmp_path, _demo_recipe)) == ""
    tight = Job(grid.model_copy(update={"last": {**few, "grpo.max_completion_length": 50}}), "thinking", 0, tmp_path)
    assert too_little_room(tight, job_recipe(tight, tmp_path, _demo_recipe)) == (
        "ocr thinking: 20 of 20 right answers are longer than grpo.max_completion_length (50 tokens; the longest has "
        "52): they will be cut off"
    )


def test_published_differences_are_the_papers():
    found = {}
    for task in ("counting", "detection", "grounding", "ocr"):
        for row in grid_rows(load_grid(MINI / f"{task}.yaml"), "nowhere", read_published()):
            found[task, row.case] = row.published_difference
    assert found["counting", "rl"] == pytest.approx(78.1 - 60.2)
    assert found["counting", "no-matching"] == pytest.approx(77.1 - 78.1)
    assert found["detection", "no-matching"] == pytest.approx(23.5 - 31.9)
    assert found["detection", "thinking"] == pytest.approx(25.7 - 28.1)  # both on 10,000 images
    assert found["detection", "reward-4-f1"] == pytest.approx(27.6 - 20.2)
    assert found["detection", "reward-5-missing"] == pytest.approx(28.1 - 27.6)
    assert found["ocr", "rl"] == pytest.approx(98.2 - 94.4)  # the main table's base
    assert found["counting", "base"] is None and found["counting", "robust"] is None


def test_directions():
    def measured(low, high):
        return {"value": (low + high) / 2, "low": low, "high": high}

    assert direction(measured(0.1, 0.2), 5.0) == "yes"
    assert direction(measured(0.1, 0.2), -5.0) == "no"
    assert direction(measured(-0.1, 0.2), 5.0) == "unclear"
    assert direction(measured(0.1, 0.2), 0.0) == "even"
    assert direction(None, 5.0) == direction(measured(0.1, 0.2), None) == ""


def test_two_levels_of_chance():
    first = lambda means: means[..., 0]  # noqa: E731
    rng = np.random.default_rng(0)
    right = [(rng.random((400, 1)) < p).astype(float) for p in (0.5, 0.6, 0.7)]
    value, low, high = pooled(right, first)
    assert value == pytest.approx(np.mean([side.mean() for side in right]))
    # Seeds that differ widen the interval beyond that of the samples alone.
    alone = pooled([np.concatenate([right[0][:133], right[1][:133], right[2][:134]])], first)
    assert high - low > 1.2 * (alone[2] - alone[1])
    assert low < value < high
    # The same side against itself differs by nothing; a constant gap has no width.
    sides = dict(enumerate(right))
    assert pooled_difference(sides, sides, first) == (0.0, 0.0, 0.0)
    lifted = {key: side + 0.25 for key, side in sides.items()}
    assert pooled_difference(sides, lifted, first) == pytest.approx((0.25, 0.25, 0.25))
    # A model that was not trained stands against all seeds.
    one = pooled_difference({None: right[0]}, sides, first)
    assert one[0] == pytest.approx(value - right[0].mean()) and one[1] < one[0] < one[2]
    # Seeds that only one side has say nothing about the difference.
    assert pooled_difference({0: right[0]}, sides, first) == (0.0, 0.0, 0.0)


def test_an_empty_grid_has_its_published_side(grid):
    rows = grid_rows(grid, "nowhere", read_published())
    assert [len(row.missing) for row in rows] == [1, 2, 2, 2, 2, 2]
    text = markdown(grid, rows)
    assert "| rl | 0 | – | – | 78.1 | +17.9 | – |" in text


def test_listing_runs_nothing(grid, tmp_path):
    from perception_r1.cli import app

    done = CliRunner().invoke(app, ["ablate", str(tmp_path / "g.yaml"), "--out", str(tmp_path / "o"), "--list"])
    assert done.exit_code == 0 and done.output.endswith("9 of 9 runs to do\n")
    assert not (tmp_path / "o").exists()
    done = CliRunner().invoke(app, ["ablate", str(tmp_path / "g.yaml"), "--only", "nobody"])
    assert done.exit_code == 2 and "fits no case" in done.output


SMALL = """
name: small
title: Small
recipe: demo:counting
metric: accuracy
seeds: [0]
threads: 1
set:
  data.train: [{source: digits, options: {n: 16, min_digits: 2, max_digits: 3}}]
  data.eval: [{source: digits, split: heldout, options: {n: 8, seed: 5000, min_digits: 2, max_digits: 3}}]
  grpo: {max_steps: 1, num_generations: 4, per_device_train_batch_size: 16}
  sft: {max_steps: 1}
reference: rl
published: {table: ablation, column: pixmo/val}
cases:
  base: {stage: base, against: base, published: w/o RL}
  sft: {stage: sft, published: SFT only}
  rl: {against: base, published: Perception-R1}
  sft-rl: {after: sft, published: SFT+RL}
"""


def test_a_grid_runs_resumes_and_writes_its_page(tmp_path):
    pytest.importorskip("trl")
    pytest.importorskip("matplotlib")
    from perception_r1.cli import app

    (tmp_path / "small.yaml").write_text(SMALL)
    out, page = tmp_path / "runs", tmp_path / "docs" / "mini.md"
    command = ["ablate", str(tmp_path / "small.yaml"), "--out", str(out), "--doc", str(page)]
    done = CliRunner().invoke(app, [*command, "--only", "small/base"])
    assert done.exit_code == 0, done.output
    assert "3 runs of the grid are missing so far" in done.output
    # A run that breaks (a file that is damaged) does not stop the others.
    broken = out / "small/sft-rl/seed-0/eval"
    broken.mkdir(parents=True)
    (broken / "samples.jsonl").write_text('{"id": "a"}\n')
    (broken / "settings.json").write_text("{")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "1 runs of the grid are missing" in done.output
    assert "Error" in (broken.parent / "error.txt").read_text()
    assert "What is missing so far" in page.read_text()
    shutil.rmtree(broken)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "base: accuracy" not in done.output  # what is done is not done again
    rows = json.loads((out / "table.json").read_text())["small"]
    assert [row["seeds"] for row in rows] == [[None], [0], [0], [0]] and not any(row["missing"] for row in rows)
    assert rows[2]["difference"]["value"] == pytest.approx(rows[2]["metric"]["value"] - rows[0]["metric"]["value"])
    start = json.loads((out / "small/sft-rl/seed-0/grpo/config.json").read_text())["start"]
    assert start == str(out / "small/sft/seed-0/model")
    assert not list(out.rglob("checkpoint-*"))
    text = page.read_text()
    assert "**Direction of the 3 differences that are published, too: " in text
    assert "- GRPO (Small), where a row does not say otherwise: " in text
    assert "![Small](mini/small.svg)" in text and "What is missing" not in text
    assert (tmp_path / "docs/mini/small.svg").read_text().startswith("<?xml")
    before = text, (tmp_path / "docs/mini/small.svg").read_text()
    assert CliRunner().invoke(app, [*command, "--table"]).exit_code == 0
    assert (page.read_text(), (tmp_path / "docs/mini/small.svg").read_text()) == before
    # a grid that was changed: no figure of the one before is shown under the new settings
    for more in ([], ["--table"]):
        done = CliRunner().invoke(app, [*command, *more, "--set", "grpo.beta=0.3"])
        assert done.exit_code == 2 and "differs in: grpo.beta" in done.output


def test_a_recipe_that_cannot_run_stops_the_grid(tmp_path, grid):
    """The recipe's model is nowhere: the user's mistake, the same in every run."""
    pytest.importorskip("trl")
    from perception_r1.analysis.ablate import run_grid

    with pytest.raises(UserError):
        run_grid(jobs_of([grid], tmp_path / "o"), tmp_path / "o", say=lambda line: None)


def test_the_page_of_a_grid_says_what_is_left_to_trl():
    from perception_r1.analysis.paper import _grpo_words

    words = _grpo_words(10, 16, 8, None, None)
    assert "10 steps of 2 prompts × 8 rollouts, learning rate TRL's own, KL weight TRL's own" in words
    assert "learning rate 1e-06, KL weight 0.04 (" in _grpo_words(10, 16, 8, 1e-6, 0.04)


def done(job, out, start="some/model"):
    write_record(job, job_recipe(job, out), start, out)
    job.results.mkdir(parents=True)
    (job.results / "metrics.json").write_text("{}")


def test_a_grid_that_was_changed_does_not_show_the_figures_of_before(grid, tmp_path):
    out = tmp_path / "out"
    (rl, *_) = jobs_of([grid], out, only=["g/rl"])
    assert check_done([rl], out) == 0  # not run yet
    done(rl, out)
    assert check_done([rl], out) == 0
    for changes, name in (
        ({"grpo.beta": 0.1}, "grpo.beta"),
        ({"grpo.epsilon": 0.3}, "grpo.epsilon"),
        ({"reward.preset": "robust"}, "reward.preset"),
        ({"eval.max_new_tokens": 9}, "eval.max_new_tokens"),
    ):
        changed = grid.model_copy(update={"last": changes})
        with pytest.raises(
            UserError, match=rf"was run with another recipe \(differs in: {name}\); choose another --out"
        ):
            check_done(jobs_of([changed], out, only=["g/rl"])[:1], out)
    (tmp_path / "base.yaml").write_text(BASE.replace("n: 8}}]}", "n: 9}}]}"))
    with pytest.raises(UserError, match=r"data\.eval\.0\.options\.n"):
        check_done([rl], out)
    (tmp_path / "base.yaml").write_text(BASE)
    (rl.folder / "job.json").unlink()  # as an earlier version left it
    assert check_done([rl], out) == 1


def test_a_run_that_started_from_weights_that_changed_is_said(grid, tmp_path):
    out = tmp_path / "out"
    (job, *_) = [job for job in jobs_of([grid], out, only=["g/sft-rl"], seeds=[0]) if job.case == "sft-rl"]
    start = out / "g/sft/seed-0/model"
    start.mkdir(parents=True)
    (start / "config.json").write_text("{}")
    done(job, out, start)
    assert check_done([job], out) == 0
    (start / "model.safetensors").write_bytes(b"retrained")
    with pytest.raises(UserError, match=r"differs in: the weights of .*g/sft/seed-0/model"):
        check_done([job], out)
    (out / "g").rename(tmp_path / "moved")  # moved as a whole: the same
    (tmp_path / "moved/sft/seed-0/model/model.safetensors").unlink()
    (tmp_path / "new").mkdir()
    (tmp_path / "moved").rename(tmp_path / "new/g")
    (job, *_) = [job for job in jobs_of([grid], tmp_path / "new", only=["g/sft-rl"], seeds=[0]) if job.case == "sft-rl"]
    assert check_done([job], tmp_path / "new") == 0
