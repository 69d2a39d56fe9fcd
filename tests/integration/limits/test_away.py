"""Redis dead, frozen, slow, full or not what was expected: requests are answered in time, and it comes back alone."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentapi.errors import RedisUnavailableError, StartupError
from agentapi.limits.limiter import RateLimiter
from agentapi.limits.local import per_minute
from agentapi.limits.shared import SharedLimits
from agentapi.settings import load_settings
from agentapi.storage.redis import RedisStore, Script
from integration.limits.conftest import Clock, opened
from support.valkey import Valkey, linked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentapi.limits.standing import Asked

ECHO = Script("return ARGV[1]")
ONE: list[Asked] = [("user/1", per_minute(60, 10), 1)]
AMPLE: list[Asked] = [("user/2", per_minute(1_000_000), 1)]
TIMEOUT_MS = 800
SLACK_S = 0.75
"""What a busy machine may add to a time; less than the time-out, so that to wait twice is told from to wait once."""


async def timed(limiter: RateLimiter) -> tuple[bool, float]:
    begun = time.monotonic()
    standing = await limiter.take(AMPLE)
    return standing.allowed, time.monotonic() - begun


async def fall(store: RedisStore, limiter: RateLimiter) -> None:
    """Have requests until the store is left alone; each is admitted by the process alone, within the time-out."""
    for _ in range(2):
        assert store.available
        allowed, took_s = await timed(limiter)
        assert allowed
        assert took_s < TIMEOUT_MS / 1000 + SLACK_S
    assert not store.available
    with pytest.raises(RedisUnavailableError):
        await store.check()


async def rise(store: RedisStore, limiter: RateLimiter, clock: Clock) -> None:
    """Have the time pass after which it is tried again; two requests find it well."""
    clock.pass_s(1.2)
    for _ in range(2):
        assert not store.available
        await limiter.take(AMPLE)
    assert store.available
    await store.check()


def events(entries: list[Any]) -> list[str]:
    return [entry["event"] for entry in entries if entry["event"].startswith("redis_")]


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_redis_that_is_gone_is_left_alone_and_comes_back_by_itself(mortal: Valkey, fault: str) -> None:
    clock = Clock()
    async with opened(mortal.url, clock, redis_timeout_ms=TIMEOUT_MS) as store:
        limiter = RateLimiter(SharedLimits(store))
        assert await timed(limiter)
        with structlog.testing.capture_logs() as entries:
            (mortal.kill if fault == "killed" else mortal.freeze)()
            await fall(store, limiter)
            # Nobody waits for it now, and nobody asks it.
            began = time.monotonic()
            for _ in range(200):
                await limiter.take(AMPLE)
            assert time.monotonic() - began < SLACK_S
            for _ in range(2):
                # A probe that fails is one more request that waited, and no news.
                clock.pass_s(1.2)
                assert (await timed(limiter))[1] < TIMEOUT_MS / 1000 + SLACK_S
            (mortal.start if fault == "killed" else mortal.thaw)()
            await rise(store, limiter, clock)
        assert events(entries) == ["redis_unavailable", "redis_available"]


async def test_many_requests_at_once_wait_no_longer_than_one(mortal: Valkey) -> None:
    async with opened(mortal.url, redis_timeout_ms=TIMEOUT_MS, redis_max_connections=4) as store:
        limiter = RateLimiter(SharedLimits(store))
        await limiter.take(ONE)
        mortal.freeze()
        begun = time.monotonic()
        standings = await asyncio.gather(*(limiter.take(ONE) for _ in range(100)))
        # One after the other they would take 25 times as long as one.
        assert time.monotonic() - begun < 3 * TIMEOUT_MS / 1000
        assert sum(standing.allowed for standing in standings) == 9


async def test_a_redis_that_is_slow_is_as_good_as_gone_and_no_reply_goes_to_another(valkey: Valkey) -> None:
    clock = Clock()
    async with linked(valkey) as link, opened(link.url, clock, redis_timeout_ms=TIMEOUT_MS) as store:
        limiter = RateLimiter(SharedLimits(store))
        assert await store.run(ECHO, [], ["first"]) == b"first"
        link.delay_s = 2 * TIMEOUT_MS / 1000
        for _ in range(2):
            with pytest.raises(RedisUnavailableError):
                await store.run(ECHO, [], ["late"])
        assert not store.available
        link.delay_s = 0.0
        clock.pass_s(1.2)
        answers = [await store.run(ECHO, [], [number]) for number in range(2)]
        assert answers == [b"0", b"1"]
        together = await asyncio.gather(*(store.run(ECHO, [], [number]) for number in range(50)))
        assert together == [str(number).encode() for number in range(50)]
        await limiter.take(ONE)
        assert store.available


async def test_a_request_whose_client_leaves_says_nothing_of_redis(valkey: Valkey) -> None:
    async with linked(valkey) as link, opened(link.url) as store:
        await store.run(ECHO, [], ["first"])
        link.delay_s = 0.2
        for turns in range(20):
            task = asyncio.ensure_future(store.run(ECHO, [], ["late"]))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert store.available
        link.delay_s = 0.0
        assert await store.run(ECHO, [], ["next"]) == b"next"


async def test_connections_are_bounded_and_given_back(valkey: Valkey) -> None:
    async with linked(valkey) as link, opened(link.url, redis_max_connections=3) as store:
        await asyncio.gather(*(store.run(ECHO, [], [number]) for number in range(60)))
        assert 1 <= link.connections <= 3


async def test_a_server_that_has_forgotten_its_scripts_is_told_again(valkey: Valkey) -> None:
    async with opened(valkey.url) as store:
        for _ in range(2):
            await store._execute("SCRIPT", "FLUSH")
            assert await store.run(ECHO, [], ["said"]) == b"said"
        assert store.available


def spoiled(valkey: Valkey) -> dict[str, Callable[[], str]]:
    return {
        "wrong password": lambda: valkey.url.replace("redis://", "redis://:planted-secret@"),
        "nobody there": lambda: "redis://127.0.0.1:1",
        "another protocol": lambda: f"rediss://127.0.0.1:{valkey.port}",
    }


@pytest.mark.parametrize("how", ["wrong password", "nobody there", "another protocol"])
async def test_a_redis_that_cannot_be_used_is_as_good_as_gone(valkey: Valkey, how: str) -> None:
    slow: list[Asked] = [("user/1", per_minute(1, 10), 1)]
    async with opened(spoiled(valkey)[how](), Clock(), redis_timeout_ms=TIMEOUT_MS) as store:
        limiter = RateLimiter(SharedLimits(store))
        with structlog.testing.capture_logs() as entries:
            assert [(await limiter.take(slow)).allowed for _ in range(11)] == [True] * 10 + [False]
        assert not store.available
        assert events(entries) == ["redis_unavailable"]
        assert "planted-secret" not in str(entries)


async def test_a_redis_with_a_password_is_used_with_it() -> None:
    with Valkey.running("--requirepass", "s3cret") as server:
        async with opened(server.url.replace("redis://", "redis://:s3cret@")) as store:
            await store.check()
        async with opened(server.url) as store:
            with structlog.testing.capture_logs() as entries:
                for _ in range(2):
                    with pytest.raises(RedisUnavailableError):
                        await store.check()
            assert events(entries) == ["redis_unavailable"]


async def test_a_full_redis_is_as_good_as_gone() -> None:
    clock = Clock()
    with Valkey.running("--maxmemory", "1", "--maxmemory-policy", "noeviction") as server:
        async with opened(server.url, clock) as store:
            limiter = RateLimiter(SharedLimits(store))
            with structlog.testing.capture_logs() as entries:
                assert [(await limiter.take(ONE)).allowed for _ in range(11)] == [True] * 10 + [False]
                for _ in range(3):
                    # It answers, so that whoever only asked for an answer would take it up again and again.
                    clock.pass_s(1.2)
                    with pytest.raises(RedisUnavailableError):
                        await store.check()
            assert [entry["reason"].partition(":")[0] for entry in entries] == ["OutOfMemoryError"]
            await store._execute("CONFIG", "SET", "maxmemory", "0")
            clock.pass_s(1.2)
            other: list[Asked] = [("user/2", per_minute(60, 10), 1)]
            for _ in range(2):
                assert (await limiter.take(other)).allowed
            assert store.available


async def test_where_redis_is_required_nobody_decides_without_it(mortal: Valkey) -> None:
    clock = Clock()
    async with opened(mortal.url, clock, redis_timeout_ms=TIMEOUT_MS) as store:
        limiter = RateLimiter(SharedLimits(store), required=True)
        assert (await limiter.take(ONE)).allowed
        mortal.kill()
        for _ in range(4):
            with pytest.raises(RedisUnavailableError):
                await limiter.take(ONE)
        mortal.start()
        clock.pass_s(1.2)
        assert (await limiter.take(ONE)).allowed


async def test_a_process_admits_no_more_than_the_limit_whatever_becomes_of_redis(mortal: Valkey) -> None:
    """One whose Redis forgets everything again and again still has its own count."""
    clock = Clock()
    slow: list[Asked] = [("user/1", per_minute(1, 10), 1)]
    async with opened(mortal.url, clock, redis_timeout_ms=TIMEOUT_MS) as store:
        limiter, admitted = RateLimiter(SharedLimits(store)), 0
        for _ in range(3):
            admitted += sum([(await limiter.take(slow)).allowed for _ in range(6)])
            mortal.kill()
            admitted += sum([(await limiter.take(slow)).allowed for _ in range(6)])
            mortal.start()
            clock.pass_s(1.2)
        assert admitted == 10


async def test_what_one_process_has_used_up_is_refused_without_asking(valkey: Valkey) -> None:
    asked: list[Asked] = [("user/alone", per_minute(1, 3), 1)]
    async with opened(valkey.url, redis_prefix="alone") as store:
        limiter = RateLimiter(SharedLimits(store))
        assert [(await limiter.take(asked)).allowed for _ in range(3)] == [True] * 3
        await store.aclose()
        store._circuits.force_open("redis")
        refused = await RateLimiter(SharedLimits(store), required=True, local=limiter._local).take(asked)
        assert (refused.allowed, refused.name) == (False, "user")
        assert 0 < refused.retry_after_s <= 60


async def test_processes_share_one_limit(valkey: Valkey) -> None:
    asked: list[Asked] = [("user/both", per_minute(1, 10), 1)]
    async with opened(valkey.url) as one, opened(valkey.url) as other:
        limiters = [RateLimiter(SharedLimits(store)) for store in (one, other)]
        admitted = [(await limiters[turn % 2].take(asked)).allowed for turn in range(30)]
        assert sum(admitted) == 10
    async with opened(valkey.url, redis_prefix="elsewhere") as third:
        assert (await RateLimiter(SharedLimits(third)).take(asked)).allowed


def certificate(directory: Path) -> Path:
    """Write a key and a certificate of 127.0.0.1 that it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "tls.pem"
    form = serialization.Encoding.PEM
    private = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(form))
    return path


async def test_over_tls_the_certificate_is_checked(valkey: Valkey, tmp_path: Path) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    async with linked(valkey, context) as link:
        async with opened(f"rediss://localhost:{link.port}?ssl_ca_certs={path}") as store:
            assert await asyncio.gather(*(store.run(ECHO, [], [number]) for number in range(8)))
            # One context for all of them: to make one takes milliseconds in which nobody is served.
            connections: list[Any] = list(store._client.connection_pool._available_connections)
            assert len(connections) > 1
            assert len({id(connection.ssl_context.get()) for connection in connections}) == 1
        for wrong in (f"rediss://localhost:{link.port}", f"rediss://127.0.0.1:{link.port}?ssl_ca_certs={path}"):
            async with opened(wrong) as store:
                with pytest.raises(RedisUnavailableError):
                    await store.run(ECHO, [], ["x"])


@pytest.mark.parametrize("url", ["valkey://x", "127.0.0.1:6379", "redis://h:port", "redis://h?socket_timeout=planted"])
def test_an_address_that_is_none_is_told_at_the_start_and_not_repeated(url: str) -> None:
    with pytest.raises(StartupError) as caught:
        RedisStore.from_settings(load_settings(redis_url=url))
    assert "AGENTAPI_REDIS_URL" in caught.value.message
    assert "planted" not in caught.value.message
