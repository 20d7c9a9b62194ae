"""Wording by a language model, against a stub server that answers, hangs, errs or talks nonsense."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from atlas import descriptions
from atlas.errors import BadExplainer, BadSetting
from ingest.describe import Request, describe
from ingest.describe.wording import PROMPT, Explainer, word
from ingest.evidence.subject import Subject
from tests.unit.ingest.describe.stub import Stub, serving


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving() as server:
        yield server


@pytest.fixture
def base(subject: Subject) -> descriptions.Descriptions:
    return describe(subject, Request(token_z=3.4, feature_z=3.0, false=0.9))


def texts(subject: Subject) -> list[str]:
    return subject.weights.vocabulary.texts


def test_every_description_is_worded_and_prompt_model_and_answer_are_kept(subject, base, stub: Stub):
    explainer = Explainer(stub.address, "some-model", key="secret")

    worded = word(base, texts(subject), explainer)

    assert worded.texts["feature"].to_pylist() == base.texts["feature"].to_pylist()
    assert set(worded.texts["text"].to_pylist()) == {"small animals"}
    assert set(worded.texts["explainer"].to_pylist()) == {"some-model"}
    assert worded.manifest["settings"]["prompt"] == PROMPT
    assert "secret" not in json.dumps(worded.manifest) + repr(explainer)
    assert stub.keys == {"Bearer secret"}
    details = worded.details().to_pylist()
    assert {row["prompt"] for row in details} == {asked["messages"][0]["content"] for asked in stub.asked}
    first = next(row for row in base.details().to_pylist() if row["validated"])
    token = max(first["tokens"], key=lambda entry: entry["activation"] or 0)["index"]
    prompt = next(row["prompt"] for row in details if row["feature"] == first["feature"])
    assert repr(texts(subject)[token]) in prompt
    count = len(stub.asked)
    assert word(base, texts(subject), explainer).run == worded.run
    assert len(stub.asked) == count
    assert descriptions.labels(subject.build).to_pylist()[first["feature"]]["label_source"] == "atlas-llm"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("hang", "no answer within 0.5 s"),
        ("err", "503 Service Unavailable: .*overloaded"),
        ("html", "no answer that can be read"),
        ("other", "something else than chat completions"),
        ("long", "a phrase of 1 to 200"),
    ],
)
def test_an_address_that_fails_loses_nothing_and_is_one_line(subject, base, stub: Stub, behaviour: str, said: str):
    stub.behaviour = lambda n: "answer" if n <= 7 else behaviour
    explainer = Explainer(stub.address, "some-model", timeout=0.5, at_once=1)

    with pytest.raises(BadExplainer, match=said) as caught:
        word(base, texts(subject), explainer)

    assert "\n" not in str(caught.value)
    assert f"7 of {len(base.texts)} wordings are kept" in str(caught.value)
    assert [one.method for one in descriptions.staged(subject.build)] == ["atlas"]
    before = len(stub.asked)
    stub.behaviour = lambda n: "answer"
    worded = word(base, texts(subject), explainer)
    assert len(worded.texts) == len(base.texts)
    assert len(stub.asked) - before == len(base.texts) - 7


def test_an_address_where_nobody_listens_and_no_address_are_one_line(subject, base):
    with pytest.raises(BadExplainer, match="refused"):
        word(base, texts(subject), Explainer("http://127.0.0.1:9/v1", "some-model", timeout=1))
    with pytest.raises(BadSetting, match="no address"):
        Explainer("localhost", "some-model")
