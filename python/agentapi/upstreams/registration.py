"""From what a client sent about an upstream to one that can be stored: checked, and its secret sealed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from agentapi.errors import EgressRefusedError, UpstreamError
from agentapi.principal import UpstreamId
from agentapi.upstreams.models import Scope, Upstream
from agentapi.upstreams.requests import check_input
from agentapi.upstreams.secrets import seal_secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from agentapi._core import Keyring
    from agentapi.principal import Principal
    from agentapi.tenancy.models import Workspace
    from agentapi.upstreams.requests import UpstreamInput

__all__ = ["Registration"]


class Registration:
    """Checks and builds upstreams.

    Args:
        keyring: Seals secrets.
        check_url: Raises ``EgressRefusedError`` for a URL that the gateway must not call.
        commands: The allowed stdio commands, each with the variables that users may bring to it.
    """

    def __init__(
        self,
        *,
        keyring: Keyring,
        check_url: Callable[[str], Awaitable[None]],
        commands: Mapping[str, Collection[str]],
    ) -> None:
        self._keyring = keyring
        self._check_url = check_url
        self.commands = tuple(sorted(commands))
        self._variables = dict(commands)

    async def check(self, given: UpstreamInput, stored: Upstream | None = None) -> None:
        """Check what depends on more than one field, on ``stored`` that it replaces, and on where it leads.

        Raises:
            InvalidRequestError: All complaints at once.
        """
        refusal = None
        if given.endpoint is not None:
            try:
                await self._check_url(given.endpoint)
            except EgressRefusedError as error:
                refusal = error.message
            except UpstreamError:
                # A name that does not resolve now may resolve later; the guard looks again at every connection.
                refusal = None
        check_input(given, stored=stored, refusal=refusal, commands=self._variables)

    def new(self, principal: Principal, workspace: Workspace, given: UpstreamInput) -> Upstream:
        """Return what was sent as a new upstream of ``workspace``."""
        now = datetime.now(UTC)
        upstream = Upstream(
            id=UpstreamId(uuid4()),
            org_id=principal.org_id,
            workspace_id=workspace.id,
            name=given.name,
            transport=given.transport,
            endpoint=given.endpoint,
            command=given.command,
            protocol=given.protocol,
            auth=given.auth,
            auth_header=given.auth_header,
            credential_form=given.credential_form,
            secret=None,
            scope=given.scope,
            owner_id=principal.user_id if given.scope is Scope.USER else None,
            enabled=given.enabled,
            description=given.description,
            version=1,
            created_at=now,
            updated_at=now,
            created_by=principal.user_id,
        )
        return replace(upstream, secret=self._secret(given, upstream))

    def changed(self, stored: Upstream, given: UpstreamInput) -> Upstream:
        """Return ``stored`` as it was sent; a secret that was not sent stays, where it still has a use."""
        return replace(
            stored,
            name=given.name,
            transport=given.transport,
            endpoint=given.endpoint,
            command=given.command,
            protocol=given.protocol,
            auth=given.auth,
            auth_header=given.auth_header,
            credential_form=given.credential_form,
            secret=self._secret(given, stored),
            enabled=given.enabled,
            description=given.description,
        )

    def _secret(self, given: UpstreamInput, stored: Upstream) -> bytes | None:
        if given.secret is not None:
            return seal_secret(self._keyring, stored.org_id, stored.id, given.secret.get_secret_value())
        return stored.secret if given.auth is stored.auth else None
