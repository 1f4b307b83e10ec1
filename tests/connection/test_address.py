"""What a server's URL may be, and that an error about one shows nothing of it."""

from __future__ import annotations

import traceback

import pytest

from aioinfra.connection.address import Address, parse_address
from aioinfra.errors import InvalidArgument

SECRET = "hunter2"

MALFORMED = [
    f"redis://:a/{SECRET}@host:6379/0",
    f"redis://:a?{SECRET}@host:6379/0",
    f"redis://:a#{SECRET}@host:6379/0",
    f"redis://host#{SECRET}",
    f"redis://host:{SECRET}/0",
    f"redis://host/{SECRET}",
    f"redis://host/0?{SECRET}@host",
    f"redis://:{SECRET}@host/{'1' * 5_000}",
    f"redis://[{SECRET}/0",
    f"redis://user:\u2100{SECRET}@host/0",
    f"redis://user:{SECRET}\n@host/0",
    f"redis://user%3A{SECRET}%40host/0",
    f"redis://user%3A{SECRET}",
    f"rediss://user:{SECRET}@host:70000/0",
    f"unix://:a/{SECRET}@/run/redis.sock",
    f"http://:{SECRET}@host",
    f"{SECRET}@host",
]


def everything_shown(error: BaseException) -> str:
    """All that a traceback or a reader of the exception's chain can see."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error.args)
    for linked in (error.__cause__, error.__context__):
        shown += everything_shown(linked) if linked is not None else ""
    return shown


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_is_refused_and_nothing_of_it_is_shown(url: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_address(url)
    assert refused.value.argument == "url"
    assert SECRET not in everything_shown(refused.value).replace(repr(url), "")


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("redis://:pass@host", "pass"),
        ("redis://user:a%2Fb%40c%3Fd%23e@host", "a/b@c?d#e"),
        ("redis://user:a@b@host", "a@b"),
        ("redis://host?password=a%2Fb", "a/b"),
        ("unix://user:pass@/run/redis.sock", "pass"),
    ],
)
def test_passwords_are_read_and_shown_nowhere(url: str, password: str) -> None:
    address = parse_address(url)
    assert address.password == password
    assert password not in repr(address) + address.location


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://my_host.example:7000/3", "redis://my_host.example:7000/3"),
        ("rediss://[::1]:7000", "rediss://[::1]:7000/0"),
        ("unix:///run/a@b.sock?db=2", "unix:///run/a@b.sock?db=2"),
    ],
)
def test_sound_urls_stay_readable(url: str, location: str) -> None:
    address = parse_address(url)
    assert isinstance(address, Address)
    assert address.location == location
