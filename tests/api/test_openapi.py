"""The OpenAPI document tells the truth: schemathesis tries every operation against it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.asgi import TOKEN, Client
from tests.api.live import running

CONFIG = Path(__file__).with_name("schemathesis.toml")
HOOKS = {"SCHEMATHESIS_HOOKS": str(Path(__file__).with_name("schemathesis_hooks.py"))}
OPERATIONS = 37


def test_every_answer_is_as_the_document_says(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    with running(tmp_path) as live:
        live.node.jobs_end_at_once = True  # its events then end too
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", f"{live.url}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}"),
            *("--max-examples", "4", "--max-time", "15", "--continue-on-failure"),
            *("--generation-deterministic", "--no-color", "--warnings", "off"),
        ]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, **HOOKS},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"Tested: {OPERATIONS}" in done.stdout
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated is not None
    assert int(generated.group(1)) > 100, "it really tried"


def test_every_operation_names_its_codes_and_its_problems() -> None:
    document = Client().app.openapi()
    operations = [
        (path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    assert len(operations) == OPERATIONS
    names = {operation["operationId"] for _, _, operation in operations}
    assert len(names) == OPERATIONS
    for path, method, operation in operations:
        responses = operation["responses"]
        assert {"400", "401", "403", "421", "503"} <= set(responses), (path, method)
        for status, response in responses.items():
            if status >= "400" and path != "/readyz":
                assert list(response["content"]) == ["application/problem+json"], (path, status)


def test_every_reference_in_the_document_leads_somewhere() -> None:
    document = Client().app.openapi()
    found = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert found == set(document["components"]["schemas"])
    assert {"Problem", "Put", "Blobs", "Node"} <= found
