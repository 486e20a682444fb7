"""Schemathesis makes up requests from the server's own OpenAPI document: none breaks it, and answers are as it says."""

import pytest
from hypothesis import HealthCheck, given, settings
from test_serving import served

import textgen
from textgen.serve import create_app

schemathesis = pytest.importorskip("schemathesis")  # pip install '.[test-serve]'
pytestmark = pytest.mark.slow
TEXT = "the fox ran to the den, and the hen ran home; then it slept.\n" * 60


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    root = tmp_path_factory.mktemp("schema")
    (root / "notes.txt").write_text(TEXT)
    (root / "labels.csv").write_text("text,label\n" + "a fine day,pos\na dull day,neg\n" * 20)
    small = {"hidden_size": 16, "max_steps": 5, "threads": 1, "sample_steps": 0, "tokenizer": "char", "seed": 1}
    folders = {
        "notes": textgen.train(root / "notes.txt", output_dir=str(root / "notes"), **small),
        "labels": textgen.train(root / "labels.csv", output_dir=str(root / "labels"), label_column="label", **small),
    }
    with served(create_app(folders, request_timeout=20.0)) as client:
        yield schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


CHECKS = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
EXAMPLES = settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_no_request_breaks_the_server(document):
    operations = [each.ok() for each in document.get_all_operations()]
    assert len(operations) >= 14

    def tried(case):
        body = case.body
        if isinstance(body, dict) and isinstance(body.get("max_tokens"), int):
            body["max_tokens"] = min(body["max_tokens"], 4)
        answer = case.call()
        assert answer.status_code < 500 or answer.status_code == 503, answer.content[:500]
        if answer.status_code != 503:
            case.validate_response(answer, checks=[getattr(schemathesis.checks, name) for name in CHECKS])

    for operation in operations:
        EXAMPLES(given(case=operation.as_strategy())(tried))()
