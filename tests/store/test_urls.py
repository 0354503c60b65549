import pytest

from app.store.opening import url_without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////data/a@b?c.db", "sqlite:////data/a@b?c.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://:s3cret@cache:6379/0", "redis://cache:6379/0"),
        ("rediss://user:s3cret@[fd00::1]:6380", "rediss://[fd00::1]:6380"),
        ("redis://cache?password=s3cret", "redis://cache"),
        ("redis://cache/1?password=s3cret@1", "redis://"),
        ("redis://user:12/s3cret@cache/0", "redis://cache/0"),
        ("redis://user:12?s3cret@cache/0", "redis://"),
        ("unix://user:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        (
            "redis+sentinel://user:s3cret@a:1,b:2/service?sentinel_password=s3cret",
            "redis+sentinel://a:1,b:2/service",
        ),
    ],
)
def test_a_stores_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert url_without_secrets(url) == shown
