"""Schemathesis makes up requests from the server's own OpenAPI document: none breaks it, and answers are as it says."""

import pytest
from hypothesis import HealthCheck, given, settings
from served import served, trained

from textgen.serve import create_app

schemathesis = pytest.importorskip("schemathesis")  # pip install '.[test-serve]'
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    folders = trained(tmp_path_factory.mktemp("schema"), "notes", "labels")
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
