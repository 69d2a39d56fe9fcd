"""Refused credentials in the audit log, at most so many a minute: whoever guesses tokens must not fill it.

Of a token that nobody can vouch for it is not known whose it is, and what the path says is the stranger's own word; so
its refusal is the deployment's. That of a verified token belongs to the organisation of its owner; and so does that of
a token which the gateway itself has signed, and which is good no more since it was revoked or its session has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentapi.audit.models import DEPLOYMENT, Actor, Entry, Outcome
from agentapi.errors import AgentAPIError, ForbiddenError, NotFoundError, UnauthenticatedError
from agentapi.gateway.resource import NO_WORKSPACE
from agentapi.identity.api_keys.models import KeyGrant
from agentapi.principal import Bearer

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi._core import VerifiedToken
    from agentapi.audit.log import AuditLog
    from agentapi.audit.models import Doer
    from agentapi.tenancy.admission import Admission

__all__ = ["ForeignOrganizationError", "Refusals"]

_ACTION: Final = "auth.refused"
_PER_MINUTE: Final = 60
_MINUTE_S: Final = 60.0
_DEPLOYMENT: Final = Actor(DEPLOYMENT)


class ForeignOrganizationError(NotFoundError):
    """The token is of another organisation than the path, which reads like a workspace that does not exist."""

    def __init__(self, token: VerifiedToken | KeyGrant) -> None:
        super().__init__(NO_WORKSPACE)
        self.token = token


class Refusals:
    """Notes credentials that are refused.

    Args:
        audit: Where to.
        admission: Knows whose a verified token is.
        clock: Monotonic seconds.
        per_minute: Rows at most; of further ones there is the number, in a row of its own.
    """

    def __init__(
        self, audit: AuditLog, admission: Admission, *, clock: Callable[[], float], per_minute: int = _PER_MINUTE
    ) -> None:
        self._audit = audit
        self._admission = admission
        self._clock = clock
        self._per_minute = per_minute
        self._minute_began = clock()
        self._noted = 0
        self._suppressed = 0

    async def note(self, error: AgentAPIError, token: VerifiedToken | KeyGrant | None) -> None:
        """Note that a request was refused, if it was for the credential that it presented."""
        if isinstance(error, ForeignOrganizationError):
            token = error.token
        if token is None:
            if not isinstance(error, UnauthenticatedError) or not error.presented:
                return
        elif not isinstance(error, ForbiddenError | ForeignOrganizationError | UnauthenticatedError):
            return
        if not self._may_note():
            return
        code = "foreign_organization" if isinstance(error, ForeignOrganizationError) else error.code
        reason = error.reason if isinstance(error, UnauthenticatedError) else None
        entry = Entry(_ACTION, Outcome.DENIED, details={"code": code, "reason": reason})
        self._audit.note(await self._owner(error, token), entry)

    def _may_note(self) -> bool:
        now = self._clock()
        if now - self._minute_began >= _MINUTE_S:
            if self._suppressed:
                entry = Entry(_ACTION, Outcome.DENIED, details={"code": "suppressed", "count": self._suppressed})
                self._audit.note(_DEPLOYMENT, entry)
            self._minute_began, self._noted, self._suppressed = now, 0, 0
        if self._noted >= self._per_minute:
            self._suppressed += 1
            return False
        self._noted += 1
        return True

    async def _owner(self, error: AgentAPIError, token: VerifiedToken | KeyGrant | None) -> Doer:
        if isinstance(token, KeyGrant):
            return token.principal
        try:
            if isinstance(error, UnauthenticatedError):
                bearer = error.bearer if token is None else _bearer(token)
                return (None if bearer is None else await self._admission.owner(bearer)) or _DEPLOYMENT
            return _DEPLOYMENT if token is None else await self._admission.admit(token)
        except AgentAPIError:
            # It names an organisation or a role that does not exist, so it is nobody's here.
            return _DEPLOYMENT


def _bearer(token: VerifiedToken) -> Bearer | None:
    if token.organization is None or token.session_id is None:
        return None
    return Bearer(token.issuer, token.organization, token.session_id)
