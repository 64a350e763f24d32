"""Geometry3K in its folder and parquet forms, its logic forms, MathVista's table, and their broken twins."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from perception_r1.data.logic_forms import facts_of, figure_of, sentence
from perception_r1.data.plane_figure import draw
from perception_r1.data.sources import load_source
from perception_r1.data.visual_info import read_infos, write_infos
from perception_r1.errors import DataError
from perception_r1.reasoning.facts import statements, verdict
from perception_r1.types import AnswerTarget


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One problem in the form of the official download."""
    problem = tmp_path / "geometry3k" / "train" / "12"
    problem.mkdir(parents=True)
    (problem / "img_diagram.png").write_bytes(png())
    (problem / "data.json").write_text(
        json.dumps(
            {
                "problem_text": "Find x.",
                "choices": ["12", "13", "14", "15"],
                "answer": "B",
                "id": 12,
                "data_type": "train",
            }
        )
    )
    forms = ["Equals(LengthOf(Line(A, B)), 5)", "PointLiesOnLine(A, Line(A, D))", "PointLiesOnLine(B, Line(A, D))"]
    (problem / "logic_form.json").write_text(json.dumps({"diagram_logic_form": forms}))
    return tmp_path / "geometry3k"


def load(path: Path, **spec: Any) -> list[Any]:
    return load_source({"source": "geometry3k", "path": str(path), **spec}, task="geometry")


def test_folder(folder: Path) -> None:
    (sample,) = load(folder, split="train")
    assert (sample.id, sample.question, sample.image_size) == ("12", "Find x.", (40, 30))
    assert sample.target == AnswerTarget("13", ("AB = 5", "B lies on AD"))
    (bare,) = load(folder, options={"facts": "none"})
    assert bare.target.visual_annotations == ()


def test_a_folder_named_from_the_current_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (sample,) = load(Path(folder.name))
    assert sample.image == str(folder / "train" / "12" / "img_diagram.png")


def test_a_broken_folder_names_file_and_field(folder: Path) -> None:
    file = folder / "train" / "12" / "data.json"
    file.write_text(json.dumps({"problem_text": "Find x.", "choices": ["1"], "answer": "Z"}))
    with pytest.raises(DataError, match=r"12/data\.json: field 'answer': 'Z' is not one of its choices"):
        load(folder)
    with pytest.raises(DataError, match="no problems of split 'test'"):
        load(folder, split="test")


def test_the_authors_parquet_and_back(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    facts = ("AB = 5", "AB ∥ CD")
    rows = [
        {
            "images": [{"bytes": png(), "path": None}],
            "problem": "<image>Find x.",
            "answer": "2 \\sqrt { 3 }",
            "visual_key_info": write_infos(facts),
        }
    ]
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    (sample,) = load(path, options={"cache": str(tmp_path / "cache")})
    assert sample.question == "Find x."
    assert sample.target == AnswerTarget("2 \\sqrt { 3 }", facts)
    pyarrow.parquet.write_table(pa.Table.from_pylist([{**rows[0], "answer": None}]), path)
    with pytest.raises(DataError, match=r"train\.parquet:1: field 'answer'"):
        load(path, options={"cache": str(tmp_path / "cache")})


def test_infos_round_trip_whatever_a_fact_holds() -> None:
    assert read_infos(write_infos(["a <info2>b</info2>", "c"])) == ("a b", "c")
    assert read_infos("<info2>b</info2> text <info1> a\n a </info1><info3> </info3>") == ("a a", "b")
    assert read_infos("nothing") == ()


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("Equals(LengthOf(Line(T, R)), x+21)", "TR = x+21"),
        ("Equals(MeasureOf(Angle(T, R, S)), 4y-10)", "∠TRS = (4y-10)°"),
        ("Equals(MeasureOf(Angle(F, E, I)), MeasureOf(angle 4))", "∠FEI = ∠4"),
        ("Parallel(Line(W, X), Line(Z, Y))", "WX ∥ ZY"),
        ("PointLiesOnCircle(M, Circle(K, radius_7_0))", "M lies on circle K"),
        ("Equals(AreaOf(Triangle(A, B, C)), 875)", "the area of triangle ABC = 875"),
        ("Tangent(Line(A,B), Circle(G))", "AB is tangent to circle G"),
        ("Equals(LengthOf(Line(A, B)", "equals LengthOf(Line(A, B"),
        ("", ""),
    ],
)
def test_sentences(form: str, text: str) -> None:
    assert sentence(form) == text


def test_all_real_logic_forms_are_read_back_and_drawn(shared_data: Path) -> None:
    """3,002 problems, 27,003 facts: each states itself, and fewer than 1 % are of no known kind."""
    with zipfile.ZipFile(shared_data / "geometry" / "geometry3k_logic_forms.zip") as archive:
        problems = json.loads(archive.read("logic_forms/diagram_logic_forms_annot.json"))
    assert len(problems) == 3002
    n = unknown = 0
    for index, problem in enumerate(problems.values()):
        for fact in facts_of(problem["diagram_logic_forms"]):
            n += 1
            unknown += not statements(fact)
            if index < 300:
                assert verdict(fact, fact) == "stated", fact
    assert n == 27003
    assert unknown / n < 0.01
    for problem in list(problems.values())[:40]:
        figure = figure_of(problem)
        assert draw(figure, 96).getextrema() != ((255, 255),) * 3
    with pytest.raises(DataError, match="no point positions"):
        figure_of({})


def test_mathvista_rows(shared_data: Path) -> None:
    path = shared_data / "geometry" / "mathvista_testmini.json"
    spec = {"source": "mathvista", "path": str(path), "options": {"missing": "keep"}}
    samples = load_source(spec, task="geometry")
    assert len(samples) == 1000
    solving = {**spec, "options": {"missing": "keep", "task": "geometry problem solving"}}
    chosen = load_source(solving, task="geometry")
    assert 200 < len(chosen) < 300
    assert "Choices:\n(A)" in chosen[0].question
    with pytest.raises(DataError, match="no problems of task 'astrology'"):
        load_source({**spec, "options": {"task": "astrology"}}, task="geometry")
