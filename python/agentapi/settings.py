"""Every ``AGENTAPI_*`` variable (those of ``limit_settings`` included); the only reader of the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_state_path
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, TypeAdapter, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict, SettingsError

from agentapi.errors import StartupError
from agentapi.limit_settings import LimitSettings, Network, ToolRate

__all__ = [
    "BrowserSignIn",
    "ClaimRules",
    "IssuerSettings",
    "OAuthClientSettings",
    "Settings",
    "StdioCommand",
    "ToolRate",
    "describe_settings",
    "load_issuers",
    "load_settings",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClaimRules(_Strict):
    """Where the claims of an issuer's tokens say who the caller is. Pointers are RFC 6901 JSON pointers."""

    organization_pointer: str | None = None
    """Claim that names the organisation."""
    organizations: dict[str, str] = {}
    """Claim value to organisation slug; a value that is not listed is taken as the slug itself."""
    organization: str | None = None
    """Slug for tokens without the claim: an issuer that serves one organisation needs no claim."""
    role_pointer: str | None = None
    """Claim that names the role: a string or a list of strings."""
    roles: dict[str, str] = {}
    """Claim value to role; a value that is neither listed nor the name of a role is ignored."""
    default_role: str | None = None
    """Role of a caller whose token names none. Unset: such a caller is refused."""
    email_pointer: str | None = "/email"
    scope_pointer: str | None = "/scope"
    """Claim with the scopes: a space-separated string or a list of strings."""


class BrowserSignIn(_Strict):
    """The gateway as a client of an issuer at which people sign in with a browser (OpenID Connect Core 1.0)."""

    client_id: str
    """Its redirect address is ``{public_url}/connect/signed-in``."""
    client_secret: SecretStr | None = None
    auth_method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_post"
    scopes: tuple[str, ...] = ("openid", "email")


class IssuerSettings(_Strict):
    """One authorization server whose tokens are accepted."""

    issuer: str
    """Compared exactly with the ``iss`` claim."""
    preset: Literal["generic", "supabase", "auth0", "entra", "keycloak", "google"] = "generic"
    """Shape of the claims; what ``claims`` sets explicitly wins."""
    audiences: tuple[str, ...] = ()
    """Accepted ``aud`` values besides the resource URL itself."""
    jwks_url: HttpUrl | None = None
    """Key set address. Unset: taken from the issuer's OpenID Connect discovery document."""
    jwks: str | None = None
    """The key set itself, as JSON, for an issuer that cannot be reached."""
    shared_secret: SecretStr | None = None
    """HS256 secret; an issuer with one accepts HS256 and nothing else."""
    required_scopes: tuple[str, ...] = ()
    """Scopes without which a token of this issuer is answered 403."""
    operation_scopes: bool = False
    """Ask for ``mcp:tools``, ``mcp:resources`` or ``mcp:prompts`` as well, by what a request is about."""
    claims: ClaimRules = ClaimRules()
    sign_in: BrowserSignIn | None = None
    """Unset: nobody can sign in to pages for people by this issuer, unless ``connect_with_token`` lets them."""


class OAuthClientSettings(_Strict):
    """The gateway as a client of one authorization server, for every organisation that has no client of its own."""

    issuer: str
    """``https://github.com/login/oauth``, ``https://accounts.google.com``, or as the server's metadata names it."""
    client_id: str
    client_secret: SecretStr | None = None
    auth_method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_post"
    """How the secret is sent; a client without one sends its id alone."""


class StdioCommand(_Strict):
    """One command line that the platform admin allows; tenants refer to it by name."""

    command: str
    args: tuple[str, ...] = ()
    env: dict[str, SecretStr] = {}
    readable: tuple[Path, ...] = ()
    """Directories outside the system's that the command may read in its sandbox: its code, its data."""
    network: bool = False
    """Whether it has the host's network in its sandbox; otherwise one of its own with nobody in it."""
    user_env: frozenset[str] = frozenset()
    """Variables that users may bring values of their own for, where an organisation's form asks for it."""
    description: str = ""

    @model_validator(mode="after")
    def _keeps_its_own_variables(self) -> Self:
        if self.user_env & self.env.keys():
            raise ValueError("a variable is in 'env' or in 'user_env'")
        return self


class Settings(LimitSettings):
    """Settings of one process, read once at start."""

    model_config = SettingsConfigDict(env_prefix="AGENTAPI_", extra="ignore", frozen=True, env_nested_delimiter=None)

    environment: Literal["production", "development"] = "production"
    public_url: HttpUrl = HttpUrl("http://127.0.0.1:8000")
    """Address under which clients reach the gateway; MCP URLs and audiences are built from it."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    workers: Annotated[int, Field(ge=1, le=256)] = 1

    token: SecretStr | None = None
    """Access token of the commands that ask a running gateway."""

    data_dir: Path | None = None
    """Data directory of ``agentapi dev``, where ``--data`` does not name one."""
    state_dir: Path = Field(default_factory=lambda: user_state_path("agentapi"))
    """Directory for the working directories of stdio servers."""

    database_url: SecretStr | None = None
    """PostgreSQL as the application role, which owns nothing."""
    migration_database_url: SecretStr | None = None
    """PostgreSQL as the owner of the schema; read by ``agentapi migrate``, ``keys`` and ``audit`` alone."""
    database_app_role: str = "agentapi_app"
    """Role that migrations grant to."""
    database_pool_min: Annotated[int, Field(ge=0, le=1000)] = 2
    database_pool_max: Annotated[int, Field(ge=1, le=1000)] = 10
    database_timeout_s: Annotated[float, Field(gt=0, le=300)] = 5.0

    keyring: SecretStr | None = None
    """Sealing keyring as ``agentapi keys generate`` prints it."""
    keyring_file: Path | None = None
    keyring_command: str | None = None
    """Command line, split as a shell would and run without one, that prints the keyring: for a KMS or a vault."""

    issuers: tuple[IssuerSettings, ...] = ()
    issuers_file: Path | None = None
    """JSON file with the same list as ``AGENTAPI_ISSUERS``."""
    jwt_leeway_s: Annotated[int, Field(ge=0, le=300)] = 30
    jwt_cache_entries: Annotated[int, Field(ge=0, le=10_000_000)] = 100_000
    key_set_ttl_s: Annotated[float, Field(ge=10, le=86_400)] = 600.0
    """Age after which a key set is fetched again in the background."""
    key_set_min_interval_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Least time between two fetches of one issuer's key set, unknown ``kid`` or not."""

    egress_allow_networks: tuple[Network, ...] = ()
    """Private ranges that upstreams and issuers may be in; link-local metadata addresses only if listed here."""
    egress_allow_http: bool = False
    """Allow ``http://`` upstreams and issuers."""
    egress_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0

    stdio_commands: dict[str, StdioCommand] = Field(default_factory=dict)
    """Allow-list of stdio servers, by name."""
    sandbox: Literal["off", "auto", "required"] = "auto"
    """How much of what protects a host from stdio servers is used; ``required`` does not start without it."""
    stdio_memory_mb: Annotated[int, Field(ge=16, le=1_048_576)] = 4096
    """Memory of each process of a stdio server, and of all of them together."""
    stdio_cpu_s: Annotated[int, Field(ge=1, le=86_400)] = 3600
    """Processor time of each process."""
    stdio_cpus: Annotated[float, Field(ge=0.01, le=1024)] = 1.0
    """Processors that a server may keep busy, where there are control groups."""
    stdio_processes: Annotated[int, Field(ge=1, le=100_000)] = 256
    stdio_file_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 256
    """Size of one file."""
    stdio_directory_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    """What its directory may hold in all; a server that writes more is stopped."""
    stdio_tmp_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    """Size of its ``/tmp`` under bubblewrap, and as much shared memory; both are memory. ``TMPDIR`` is on the disk."""
    stdio_life_s: Annotated[int, Field(ge=1, le=31_536_000)] = 86_400
    """Time after which a server is stopped, busy or not; the next call starts it again."""
    stdio_cgroup: Path | None = None
    """Control group (version 2) below which each server gets its own. Unset: the gateway's own, if it may fill that."""
    stdio_sharing: Literal["session", "user"] = "user"
    """Who shares a stdio server's process: all that a user does, or each session of an older client its own."""

    upstream_connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0
    upstream_call_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    upstream_idle_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    upstream_max_connections: Annotated[int, Field(ge=1, le=100_000)] = 500
    upstream_max_connections_per_upstream: Annotated[int, Field(ge=1, le=100_000)] = 200
    upstream_max_connections_per_organization: Annotated[int, Field(ge=1, le=100_000)] = 250
    upstream_max_connections_per_user: Annotated[int, Field(ge=1, le=100_000)] = 100
    upstream_max_requests_per_connection: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Requests under way over one connection; further ones are refused. The relay has bounds of its own."""
    upstream_max_requests_per_user: Annotated[int, Field(ge=1, le=100_000)] = 50
    upstream_max_requests_per_organization: Annotated[int, Field(ge=1, le=100_000)] = 200
    upstream_max_connecting_per_upstream: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Connections to one upstream that are opened side by side; the others wait for their turn."""
    upstream_ping_after_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """Rest after which a connection of the older revisions is asked whether it is alive before it is used."""
    upstream_message_mb: Annotated[int, Field(ge=1, le=1024)] = 32
    """Largest message of an upstream: an answer, an event, a line of a pipe. A longer one ends the connection."""
    upstream_stream_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    """Time in which an answer that comes as a stream has to be complete, whatever precedes it, questions included."""
    upstream_stream_mb: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Most that such a stream may hold in all, and never less than one message may."""
    relay_max_connections: Annotated[int, Field(ge=1, le=100_000)] = 4096
    """Open connections of the relay in all; one carries one request or one event stream."""
    relay_max_connections_per_organization: Annotated[int, Field(ge=1, le=100_000)] = 2048
    relay_max_connections_per_upstream: Annotated[int, Field(ge=1, le=100_000)] = 2048
    catalogue_ttl_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """How long a list of an upstream is fresh; its own ``ttlMs`` may shorten that. 0 keeps no list."""
    catalogue_min_ttl_s: Annotated[float, Field(ge=0, le=86_400)] = 5.0
    """The least to which an upstream may shorten it."""
    catalogue_max_stale_s: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    """Age up to which a list is served while it is renewed, or while its upstream fails."""
    list_page_size: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most tools, resources, templates or prompts in one page of a list."""
    request_state_ttl_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """How long a client may take to answer what an upstream asks before it goes on with a call."""
    parked_calls_max: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """Most calls to upstreams of the older revisions that wait in a process for such an answer."""
    parked_calls_per_user: Annotated[int, Field(ge=0, le=1_000_000)] = 16
    bare_tool_names: bool = False
    """Leave out the upstream prefix in workspaces with exactly one upstream."""

    oauth_clients: tuple[OAuthClientSettings, ...] = ()
    """The deployment's own clients at authorization servers."""
    oauth_client_metadata_url: Annotated[str, Field(pattern=r"^https://[^/?#\s]+/[^?#\s]+$")] | None = None
    """Where authorization servers read the gateway's client metadata, if they cannot reach its public URL. Whoever
    publishes it there copies what the gateway serves at ``/.well-known/oauth-client.json``."""
    oauth_return_urls: tuple[str, ...] = ()
    """Addresses that a browser may be sent to after it has connected; compared exactly."""
    oauth_refresh_ahead_s: Annotated[float, Field(ge=0, le=3600)] = 300.0
    """How long before its end an access token is refreshed in the background."""
    connect_with_token: bool | None = None
    """Whether people whose issuer has no ``sign_in`` may show a token of theirs at the connect page. Unset: in
    ``agentapi dev`` alone, since whoever gets used to pasting tokens pastes them elsewhere too."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=1_073_741_824)] = 4 * 1024 * 1024
    max_json_depth: Annotated[int, Field(ge=8, le=255)] = 64
    allowed_origins: tuple[str, ...] = ()
    """Browser origins that may call ``/mcp``, besides the public URL's own."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names, without ports, under which ``/mcp`` may be called besides the public URL's own."""
    body_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Time in which a request body has to arrive."""
    client_write_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Time after which a client that does not read its event stream is given up."""
    max_head_bytes: Annotated[int, Field(ge=8192, le=1_048_576)] = 65_536
    """Size of a request's first line and header fields together, of which there may be 100."""
    head_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Time from a connection's begin, or its last answer, in which the head of a request has to arrive."""
    client_answer_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """Time in which a client of the older revisions has to answer what it is asked."""
    session_ttl_s: Annotated[int, Field(ge=60, le=2_592_000)] = 86_400
    """Lifetime of an ``Mcp-Session-Id``; a client that is told of its end begins another session."""
    max_streams: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Event streams without an end that one process holds open."""
    max_streams_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 100

    sessions_lifetime_s: Annotated[int, Field(ge=60, le=31_622_400)] = 86_400
    """How long a session of an agent lives at most; who makes one may ask for less."""
    sessions_idle_s: Annotated[int, Field(ge=120, le=31_622_400)] = 3600
    """How long it lives without being used or touched, which is noted once a minute."""
    sessions_token_s: Annotated[int, Field(ge=60, le=86_400)] = 3600
    """How long a token of a session is good; its maker may have another one."""
    sessions_disk_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    """What the directory of a session may hold; one that is found to hold more ends."""
    sessions_disk_entries: Annotated[int, Field(ge=10, le=10_000_000)] = 20_000
    """How many files, directories and links it may hold."""
    sessions_sweep_s: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """How often directories are measured, and those without a session removed."""
    issuer_key_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """How long a key of the gateway's own issuer signs."""

    audit_mode: Literal["strict", "buffered", "off"] = "strict"
    """Whether a tool call is answered once its row is committed, or soon after it, or has no row; changes always do."""
    audit_checkpoint_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    """How long rows go without a signed checkpoint that would show the end of a chain to be cut off."""
    audit_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    """How long rows are kept at least; `agentapi audit retain` drops the months that are older."""
    audit_flush_s: Annotated[float, Field(gt=0, le=60)] = 0.25
    """How long rows that nobody waits for may gather; a crash loses them."""
    audit_max_queue: Annotated[int, Field(ge=100, le=10_000_000)] = 20_000
    """Rows that wait to be written at most."""

    @property
    def takes_tokens_to_connect(self) -> bool:
        """What ``connect_with_token`` comes to."""
        return self.environment == "development" if self.connect_with_token is None else self.connect_with_token

    @property
    def max_stream_bytes(self) -> int:
        """What ``upstream_stream_mb`` and ``upstream_message_mb`` come to."""
        return max(self.upstream_stream_mb, self.upstream_message_mb) * 1024 * 1024

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"


_ISSUERS: TypeAdapter[tuple[IssuerSettings, ...]] = TypeAdapter(tuple[IssuerSettings, ...])


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment; what is given here wins.

    Raises:
        StartupError: Names every variable that is wrong, at once.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type] # pydantic checks what the caller cannot
    except SettingsError as error:
        named = re.search(r'field "(\w+)"', str(error))
        variable = f"AGENTAPI_{named.group(1).upper()}" if named else "A variable"
        raise StartupError(f"{variable} is not JSON.") from None
    except ValidationError as error:
        raise StartupError("; ".join(_complaints(error, prefix="AGENTAPI_"))) from None


def load_issuers(settings: Settings) -> tuple[IssuerSettings, ...]:
    """Return the issuers of ``AGENTAPI_ISSUERS`` and of the file that ``AGENTAPI_ISSUERS_FILE`` names.

    Raises:
        StartupError: The file cannot be read or is wrong.
    """
    if settings.issuers_file is None:
        return settings.issuers
    try:
        return settings.issuers + _ISSUERS.validate_json(settings.issuers_file.read_bytes())
    except OSError as error:
        raise StartupError(f"AGENTAPI_ISSUERS_FILE cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise StartupError("; ".join(_complaints(error, prefix="AGENTAPI_ISSUERS_FILE: "))) from None


def describe_settings() -> dict[str, dict[str, Any]]:
    """Return each variable with its effective value, secrets redacted, and where that came from.

    Raises:
        StartupError: A variable is wrong.
    """
    settings = load_settings()
    values = settings.model_dump(mode="json")
    return {
        f"AGENTAPI_{name.upper()}": {
            "value": values[name],
            "source": "environment" if name in settings.model_fields_set else "default",
        }
        for name in type(settings).model_fields
    }


def _complaints(error: ValidationError, *, prefix: str) -> list[str]:
    return [
        f"{prefix}{'.'.join(str(part) for part in detail['loc']).upper()}: {detail['msg']}"
        for detail in error.errors(include_url=False, include_context=False, include_input=False)
    ]
