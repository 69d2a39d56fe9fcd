from __future__ import annotations

from ipaddress import ip_address, ip_network

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.egress.addresses import AddressPolicy
from agentapi.errors import EgressRefusedError

PUBLIC = AddressPolicy()

REFUSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.1.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:808:808:0:0:80ff:fffe",
    "2001:0:a00:1:0:0:f7f7:f7f7",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:127.0.0.1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fdff::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]

ALLOWED = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "::8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("text", REFUSED)
def test_refuses_what_is_not_public(text: str) -> None:
    with pytest.raises(EgressRefusedError, match="AGENTAPI_EGRESS_ALLOW_NETWORKS"):
        PUBLIC.check(ip_address(text))


@pytest.mark.parametrize("text", ALLOWED)
def test_accepts_what_is_public(text: str) -> None:
    PUBLIC.check(ip_address(text))


@given(st.ip_addresses())
def test_refuses_at_least_what_the_standard_library_calls_not_global(ip: object) -> None:
    address = ip_address(str(ip))
    judged = getattr(address, "ipv4_mapped", None) or address
    if not judged.is_global or judged.is_multicast:
        nat64 = ip_network("64:ff9b::/96")
        if address in nat64 or address in ip_network("::/96"):
            return
        with pytest.raises(EgressRefusedError):
            PUBLIC.check(address)


def test_a_listed_network_is_allowed_in_every_dress() -> None:
    policy = AddressPolicy(allow_networks=(ip_network("127.0.0.0/8"), ip_network("fd12::/16")))
    for text in ("127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "fd12::1"):
        policy.check(ip_address(text))
    for text in ("10.0.0.1", "::1", "fd13::1"):
        with pytest.raises(EgressRefusedError):
            policy.check(ip_address(text))


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("0.0.0.0/0", "169.254.169.254"),
        ("169.254.0.0/16", "169.254.169.254"),
        ("100.64.0.0/10", "100.100.100.200"),
        ("fd00::/8", "fd00:ec2::254"),
        ("169.254.0.0/16", "::ffff:169.254.169.254"),
        ("::/0", "::ffff:169.254.169.254"),
    ],
)
def test_a_wide_network_does_not_open_metadata(network: str, address: str) -> None:
    with pytest.raises(EgressRefusedError, match="metadata"):
        AddressPolicy(allow_networks=(ip_network(network),)).check(ip_address(address))


def test_metadata_opens_when_listed_by_itself() -> None:
    policy = AddressPolicy(allow_networks=(ip_network("169.254.169.254/32"),))
    policy.check(ip_address("169.254.169.254"))
    policy.check(ip_address("::ffff:169.254.169.254"))


def test_the_message_about_a_name_does_not_tell_the_address() -> None:
    with pytest.raises(EgressRefusedError) as caught:
        PUBLIC.check(ip_address("10.1.2.3"), host="intranet.example")
    assert "intranet.example" in caught.value.message
    assert "10.1.2.3" not in caught.value.message
    assert "private" not in caught.value.message
    assert caught.value.log_context["address"] == "10.1.2.3"
    assert caught.value.log_context["reason"] == "private"


HOSTILE_URLS = [
    ("http://example.com/", "AGENTAPI_EGRESS_ALLOW_HTTP"),
    ("HTTP://example.com/", "AGENTAPI_EGRESS_ALLOW_HTTP"),
    ("ftp://example.com/", "https"),
    ("file:///etc/passwd", "https"),
    ("gopher://example.com/", "https"),
    ("wss://example.com/", "https"),
    ("//example.com/", "https"),
    ("example.com", "https"),
    ("", "https"),
    ("https://", "no host"),
    ("https:///path", "no host"),
    ("https://:443/", "no host"),
    ("https://user@example.com/", "user name"),
    ("https://user:secret@example.com/", "user name"),
    ("https://example.com@169.254.169.254/", "user name"),
    ("https://example.com:0/", "port"),
    ("https://example.com:22/", "port"),
    ("https://example.com:25/", "port"),
    ("https://example.com:65536/", "port"),
    ("https://example.com:99999999999/", ""),
    ("https://example.com:-1/", ""),
    ("https://example.com:8o/", ""),
    ("https://127.0.0.1/", "loopback"),
    ("https://10.0.0.1:8443/", "private"),
    ("https://169.254.169.254/latest/meta-data/", "metadata"),
    ("https://[::1]/", "global"),
    ("https://[::ffff:169.254.169.254]/", "metadata"),
    ("https://[::ffff:a9fe:a9fe]/", "metadata"),
    ("https://[fe80::1%25eth0]/", ""),
    ("https://[fe80::1%eth0]/", ""),
    ("https://[::1/", ""),
    ("https://2130706433/", "number"),
    ("https://0x7f000001/", "number"),
    ("https://0x7f.1/", "number"),
    ("https://127.1/", "number"),
    ("https://127.0.1/", "number"),
    ("https://0177.0.0.1/", ""),
    ("https://0x7f.0x0.0x0.0x1/", "number"),
    ("https://017700000001/", "number"),
    ("https://127.0.0.1./", "number"),
    ("https://example.0x/", "number"),
    ("https://1.2.3.4.5/", "number"),
    ("https://256.1.1.1/", ""),
    ("https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", ""),
    ("https://127\u30020\u30020\u30021/", ""),
    ("https://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/", ""),
    ("https://ex ample.com/", ""),
    ("https://exa%6dple.com/", "name"),
    ("https://127.0.0.1%2eexample.com/", "name"),
    ("https://example..com/", "name"),
    ("https://.example.com/", "name"),
    ("https://-example.com/", "name"),
    ("https://" + "a" * 64 + ".com/", "name"),
    ("https://" + ".".join(["a" * 60] * 5) + "/", "name"),
    ("https://xn--a/", "name"),
    ("https://xn--example-.com/", "name"),
    ("https://example.com\\@169.254.169.254/", ""),
    ("https://example.com\r\nHost: evil/", ""),
    ("https://example.com\t/", ""),
    ("https://" + "a" * 70_000, ""),
]


@pytest.mark.parametrize(("url", "words"), HOSTILE_URLS)
def test_refuses_the_url(url: str, words: str) -> None:
    with pytest.raises(EgressRefusedError) as caught:
        PUBLIC.check_url(url)
    assert words in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com", b"example.com"),
        ("https://EXAMPLE.com:8443/mcp?x=1#frag", b"example.com"),
        ("https://example.com./", b"example.com."),
        ("https://my_service.internal-zone/", b"my_service.internal-zone"),
        ("https://bücher.example/", b"xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example/", b"xn--bcher-kva.example"),
        ("https://1e100.net/", b"1e100.net"),
        ("https://8.8.8.8/", b"8.8.8.8"),
        ("https://[2606:4700:4700::1111]/", b"2606:4700:4700::1111"),
    ],
)
def test_accepts_the_url_as_the_client_reads_it(url: str, host: bytes) -> None:
    assert PUBLIC.check_url(url).raw_host == host
    assert PUBLIC.check_url(httpx2.URL(url)) == httpx2.URL(url)


def test_http_is_accepted_when_allowed_and_nothing_else_is() -> None:
    policy = AddressPolicy(allow_http=True)
    policy.check_url("http://example.com/")
    with pytest.raises(EgressRefusedError):
        policy.check_url("ftp://example.com/")
    with pytest.raises(EgressRefusedError):
        policy.check_url("http://127.0.0.1/")
