"""The page of the contract: complete, and with nothing that comes from elsewhere."""

import re

import httpx

from tests.serving import RunningApi


def test_the_page_names_every_call_and_loads_nothing(api: RunningApi) -> None:
    """It is read where there is no network, and its policy lets nothing in."""
    page = httpx.get(f"{api.url}/docs", trust_env=False)
    contract = httpx.get(f"{api.url}/openapi.json", trust_env=False).json()

    assert page.status_code == 200
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path, operations in contract["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in page.text
    assert "Should I change my job this year?" in page.text


def test_there_is_no_second_page(api: RunningApi) -> None:
    """FastAPI's own pages would load their scripts from elsewhere."""
    assert httpx.get(f"{api.url}/redoc", trust_env=False).status_code == 404
