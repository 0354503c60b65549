"""Verification is loaded for the first token, and again if that failed."""

import asyncio
from pathlib import Path

import certifi
import pytest

from app.errors import CertificatesUnavailableError, NotAuthenticatedError
from app.gcp.verification import Verification


def test_a_file_that_is_missing_at_the_first_token_is_read_at_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.write_text(Path(certifi.where()).read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))

    async def verify_twice() -> None:
        verification = Verification(
            certs_url="https://certs.example.com", audiences=["a"], accounts=["b"], clock_skew_seconds=0
        )
        authorities.rename(tmp_path / "moved.pem")
        with pytest.raises(CertificatesUnavailableError, match="SSL_CERT_FILE"):
            await verification.verify("Bearer x")
        (tmp_path / "moved.pem").rename(authorities)
        with pytest.raises(NotAuthenticatedError):
            await verification.verify("Bearer x")
        await verification.aclose()

    asyncio.run(verify_twice())
