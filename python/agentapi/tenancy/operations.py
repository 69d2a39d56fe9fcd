"""What the routes of organisations take and answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Final

from agentapi.api_input import PAGE
from agentapi.errors import (
    ConflictError,
    ForbiddenError,
    InsufficientScopeError,
    LimitReachedError,
    NotFoundError,
    StorageUnavailableError,
    UnauthenticatedError,
)
from agentapi.operation import Answer, Operation
from agentapi.tenancy import documents, requests

__all__ = ["OPERATIONS"]

_ORGANIZATIONS: Final = "Organisations"
_WORKSPACES: Final = "Workspaces"
_MEMBERS: Final = "Members"
_PLATFORM: Final = "Platform"
_GONE: Final = Answer(204, "It is deleted.")
_LOCATION: Final = (("Location", "Where it is."),)
_ORGANIZATION: Final = Answer(200, "The organisation.", documents.OrganizationDocument)
_WORKSPACE: Final = Answer(200, "The workspace.", documents.WorkspaceDocument)
_MEMBER: Final = Answer(200, "The member.", documents.MemberDocument)

OPERATIONS: Final = (
    Operation(
        route="GET /api/v1/organizations",
        tag=_ORGANIZATIONS,
        summary="List the organisation that the token names",
        parameters=PAGE,
        answers=(Answer(200, "A list of one.", documents.OrganizationPage),),
    ),
    Operation(
        route="GET /api/v1/organizations/{id}",
        tag=_ORGANIZATIONS,
        summary="Read the organisation",
        answers=(_ORGANIZATION,),
        versioned="answer",
    ),
    Operation(
        route="PUT /api/v1/organizations/{id}",
        tag=_ORGANIZATIONS,
        summary="Change the organisation",
        description="Another slug is another address of its workspaces, and another name in tokens.",
        body=requests.OrganizationInput,
        answers=(_ORGANIZATION,),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="DELETE /api/v1/organizations/{id}",
        tag=_ORGANIZATIONS,
        summary="Delete the organisation with all that is in it",
        description="Its owner alone may do this. What the audit log says of it is kept.",
        answers=(_GONE,),
        versioned="change",
    ),
    Operation(
        route="POST /api/v1/organizations/{id}/transfer",
        tag=_ORGANIZATIONS,
        summary="Make another admin the owner",
        body=requests.TransferInput,
        answers=(_ORGANIZATION,),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="GET /api/v1/workspaces",
        tag=_WORKSPACES,
        summary="List workspaces",
        parameters=PAGE,
        answers=(Answer(200, "Workspaces in the order of their slugs.", documents.WorkspacePage),),
    ),
    Operation(
        route="POST /api/v1/workspaces",
        tag=_WORKSPACES,
        summary="Create a workspace",
        body=requests.WorkspaceInput,
        example={"slug": "support", "name": "Support"},
        answers=(Answer(201, "The new workspace.", documents.WorkspaceDocument, headers=_LOCATION),),
        errors=(ConflictError,),
        creates=True,
        versioned="answer",
    ),
    Operation(
        route="GET /api/v1/workspaces/{slug}",
        tag=_WORKSPACES,
        summary="Read a workspace",
        answers=(_WORKSPACE,),
        versioned="answer",
    ),
    Operation(
        route="PUT /api/v1/workspaces/{slug}",
        tag=_WORKSPACES,
        summary="Change a workspace",
        description="Another slug is another address; the old one is nobody's at once.",
        body=requests.WorkspaceInput,
        example={"slug": "support", "name": "Customer support"},
        answers=(_WORKSPACE,),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="DELETE /api/v1/workspaces/{slug}",
        tag=_WORKSPACES,
        summary="Delete a workspace that has no upstream servers",
        answers=(_GONE,),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="GET /api/v1/members",
        tag=_MEMBERS,
        summary="List members",
        parameters=PAGE,
        answers=(Answer(200, "Members in the order of their ids.", documents.MemberPage),),
    ),
    Operation(
        route="GET /api/v1/members/{id}",
        tag=_MEMBERS,
        summary="Read a member",
        answers=(_MEMBER,),
        versioned="answer",
    ),
    Operation(
        route="PUT /api/v1/members/{id}",
        tag=_MEMBERS,
        summary="Give a member a role",
        body=requests.RoleInput,
        example={"role": "viewer"},
        answers=(_MEMBER,),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="DELETE /api/v1/members/{id}",
        tag=_MEMBERS,
        summary="End a membership",
        description="Their connections, keys and credentials end with it.",
        answers=(Answer(204, "They are no member any more."),),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="DELETE /api/v1/members/me",
        tag=_MEMBERS,
        summary="Leave the organisation",
        answers=(Answer(204, "You are no member any more."),),
        errors=(ConflictError,),
        versioned="change",
    ),
    Operation(
        route="GET /api/v1/invitations",
        tag=_MEMBERS,
        summary="List invitations that may still be taken",
        parameters=PAGE,
        answers=(Answer(200, "Invitations, without their tokens.", documents.InvitationPage),),
    ),
    Operation(
        route="POST /api/v1/invitations",
        tag=_MEMBERS,
        summary="Invite somebody",
        description=(
            "The token is in this answer and nowhere else, and so is the link with it, to a page at which the person"
            " signs in and accepts."
        ),
        body=requests.InvitationInput,
        example={"role": "member", "email": "somebody@example.com"},
        answers=(Answer(201, "The invitation and its token.", documents.NewInvitationDocument),),
        creates=True,
    ),
    Operation(
        route="POST /api/v1/invitations/accept",
        tag=_MEMBERS,
        summary="Take an invitation",
        description="With a token of the organisation's issuer, whose owner need not be a member yet.",
        body=requests.AcceptInput,
        answers=(_MEMBER,),
        errors=(
            UnauthenticatedError,
            ForbiddenError,
            InsufficientScopeError,
            StorageUnavailableError,
            NotFoundError,
            ConflictError,
            LimitReachedError,
        ),
    ),
    Operation(
        route="DELETE /api/v1/invitations/{id}",
        tag=_MEMBERS,
        summary="Take an invitation back",
        answers=(_GONE,),
    ),
    Operation(
        route="GET /api/v1/platform/organizations",
        tag=_PLATFORM,
        summary="List all organisations",
        parameters=PAGE,
        answers=(Answer(200, "Organisations in the order of their slugs.", documents.OrganizationPage),),
    ),
    Operation(
        route="POST /api/v1/platform/organizations",
        tag=_PLATFORM,
        summary="Create an organisation",
        body=requests.NewOrganizationInput,
        example={"slug": "acme", "name": "Acme", "max_members": 100},
        answers=(Answer(201, "The new organisation.", documents.OrganizationDocument, headers=_LOCATION),),
        errors=(ConflictError,),
        creates=True,
        versioned="answer",
    ),
    Operation(
        route="GET /api/v1/platform/organizations/{slug}",
        tag=_PLATFORM,
        summary="Read an organisation",
        answers=(_ORGANIZATION,),
        versioned="answer",
    ),
    Operation(
        route="PUT /api/v1/platform/organizations/{slug}",
        tag=_PLATFORM,
        summary="Suspend an organisation or let it go on, and set its owner and plan",
        body=requests.PlatformInput,
        example={"suspended": False, "max_members": 200},
        answers=(_ORGANIZATION,),
        versioned="change",
    ),
    Operation(
        route="DELETE /api/v1/platform/organizations/{slug}",
        tag=_PLATFORM,
        summary="Delete an organisation with all that is in it",
        answers=(_GONE,),
        versioned="change",
    ),
)
