"""The OpenAPI 3.1 document, out of what the rooms say of their routes and of the table of permissions.

``openapi-pydantic`` has the document's own model, pydantic makes the schemas. What is said here once for all routes is
what follows from how a request is served: who may enter, what a body may bring along, cursors, versions, idempotency.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from openapi_pydantic import (
    Components,
    Contact,
    Header,
    Info,
    License,
    Link,
    MediaType,
    OpenAPI,
    Parameter,
    ParameterLocation,
    PathItem,
    Reference,
    RequestBody,
    Response,
    SecurityScheme,
    Server,
    Tag,
)
from openapi_pydantic import Operation as ApiOperation
from openapi_pydantic.v3.v3_1 import schema_validate
from pydantic import TypeAdapter

from agentapi import errors
from agentapi.identity.access import ROUTES, Open
from agentapi.identity.permissions import Permission
from agentapi.problems import PROBLEM_TYPE, Problem, status_of_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentapi.errors import AgentAPIError
    from agentapi.operation import Answer, Operation

__all__ = ["build"]

_REFS: Final = "#/components/schemas/{model}"
_PATH_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_SLUG: Final = {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "maxLength": 63}
_ID: Final = {"type": "string", "format": "uuid"}
_SLUGS: Final = frozenset({"org", "workspace", "toolset", "slug"})
_PROBES: Final = frozenset({"/live", "/ready", "/health"})
_CHANGES: Final = frozenset({"PUT", "PATCH", "DELETE"})

_DESCRIPTION: Final = """\
The administration of an AgentAPI gateway. MCP clients speak to `/mcp/{org}/{workspace}`.

**Who calls.** Every request carries `Authorization: Bearer` with an access token of an issuer that the gateway \
believes, or with an API key. Each operation names the permission that the caller's role has to carry; an API key \
needs the scope `api:read` or `api:write` besides.

**Lists** come in pages: `limit` says how many items, and `next_cursor` of one page is the `cursor` of the next.

**Versions.** What has an `ETag` can be changed with `If-Match`: if somebody else was faster, nothing is changed and \
the answer is 412. With `If-None-Match` a reader is told by 304 that nothing has changed.

**Safe repetition.** What creates something takes an `Idempotency-Key`. Within 24 hours the same request with the same \
key gets the same answer, and is done once.

**Errors** are problem documents (RFC 9457). `code` is for programs and stays the same, `detail` is for people.
"""

_ENTERED: Final = (
    errors.UnauthenticatedError,
    errors.ForbiddenError,
    errors.InsufficientScopeError,
    errors.NotFoundError,
    errors.RateLimitedError,
    errors.StorageUnavailableError,
    errors.AuditUnavailableError,
    errors.RedisUnavailableError,
)
_COUNTED: Final = (errors.RateLimitedError, errors.RedisUnavailableError)
"""What comes of counting requests, which the probes are free of."""
_WITH_BODY: Final = (errors.InvalidRequestError, errors.PayloadTooLargeError, errors.UnsupportedMediaTypeError)
_CREATES: Final = (
    errors.IdempotencyKeyError,
    errors.IdempotencyKeyInUseError,
    errors.IdempotencyKeyReusedError,
    errors.PayloadTooLargeError,
)


class _Schemas:
    """Everything that pydantic describes, with shared parts in one place."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        inputs = [each for operation in operations for each in _inputs_of(operation)]
        outputs = [answer.body for operation in operations for answer in operation.answers if answer.body is not None]
        self._keys = {("validation", id(each)): each for each in inputs}
        self._keys |= {("serialization", id(each)): each for each in (*outputs, Problem)}
        described, shared = TypeAdapter.json_schemas(
            [(f"{mode}/{key}", mode, TypeAdapter(each)) for (mode, key), each in self._keys.items()],  # type: ignore[misc] # the two modes
            ref_template=_REFS,
        )
        names = _short_names(shared.get("$defs", {}))
        self._described = {key[0]: _tidied(schema, names) for key, schema in described.items()}
        self.problems: dict[str, Response] = {}
        """Answers that several operations give, by name."""
        self.shared = {names[name]: _tidied(schema, names) for name, schema in shared.get("$defs", {}).items()}

    def taken(self, kind: object) -> dict[str, Any]:
        """Return the schema of something that requests hold."""
        schema: dict[str, Any] = self._described[f"validation/{id(kind)}"]
        return schema

    def given(self, kind: object) -> dict[str, Any]:
        """Return the schema of something that answers hold."""
        schema: dict[str, Any] = self._described[f"serialization/{id(kind)}"]
        return schema


def build(operations: Sequence[Operation], *, public_url: str, version: str) -> dict[str, Any]:
    """Return the document, valid OpenAPI 3.1 in plain JSON values.

    Args:
        operations: Of all rooms.
        public_url: The gateway's address.
        version: Of AgentAPI.
    """
    schemas = _Schemas(operations)
    links = _links(operations)
    paths: dict[str, dict[str, ApiOperation]] = {}
    for operation in operations:
        # A route that takes every method is described by the one that matters.
        method = "post" if operation.method == "*" else operation.method.lower()
        paths.setdefault(operation.path, {})[method] = _described(operation, schemas, links.get(operation.route))
    document = OpenAPI(
        openapi="3.1.1",
        info=Info(
            title="AgentAPI",
            version=version,
            description=_DESCRIPTION,
            contact=Contact(name="The administrators of this deployment"),
            license=License(name="Apache-2.0", identifier="Apache-2.0"),
        ),
        servers=[Server(url=public_url)],
        tags=[Tag(name=name) for name in dict.fromkeys(operation.tag for operation in operations)],
        paths={path: PathItem(**methods) for path, methods in paths.items()},
        components=Components(
            schemas={name: schema_validate(schema) for name, schema in sorted(schemas.shared.items())},
            responses=dict(sorted(schemas.problems.items())),
            securitySchemes={
                "accessToken": SecurityScheme(
                    type="http",
                    scheme="bearer",
                    bearerFormat="JWT",
                    description="An access token of an issuer that the gateway believes.",
                ),
                "apiKey": SecurityScheme(
                    type="http", scheme="bearer", bearerFormat="API key", description="A key of `/api/v1/api-keys`."
                ),
            },
        ),
    )
    dumped: dict[str, Any] = _whole_numbers(
        document.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    )
    return dumped


def _links(operations: Sequence[Operation]) -> dict[str, dict[str, Link | Reference]]:
    """Return what leads from each answer that makes something to the operations about that thing."""
    links: dict[str, dict[str, Link | Reference]] = {}
    for maker in operations:
        if not maker.creates or _PATH_PARAMETER.search(maker.path):
            continue
        for other in operations:
            named = _PATH_PARAMETER.findall(other.path)
            if len(named) == 1 and (other.path.startswith(f"{maker.path}/{{") or other.path in maker.leads_to):
                member = "slug" if named[0] == "slug" else "id"
                links.setdefault(maker.route, {})[_operation_id(other)] = Link(
                    operationId=_operation_id(other), parameters={named[0]: f"$response.body#/{member}"}
                )
    return links


def _described(operation: Operation, schemas: _Schemas, links: dict[str, Link | Reference] | None) -> ApiOperation:
    access = ROUTES[operation.route]
    permission = access.value if isinstance(access, Permission) else None
    needs = f"Needs the permission `{permission}`." if permission else ""
    is_open = access in {Open.ANYBODY, Open.BROWSER}
    body = None
    if operation.body is not None:
        media = MediaType(schema=schema_validate(schemas.taken(operation.body)))
        if operation.example is not None:
            media.example = operation.example
        body = RequestBody(content={"application/json": media}, required=True)
    responses = _responses(operation, access, schemas)
    if links is not None and isinstance(made := responses["201"], Response):
        made.links = links
    return ApiOperation(
        operationId=_operation_id(operation),
        tags=[operation.tag],
        summary=operation.summary,
        description=" ".join(part for part in (f"{operation.description}".strip(), needs) if part) or None,
        parameters=list(_parameters(operation, schemas)) or None,
        requestBody=body,
        responses=responses,
        security=[] if is_open else [{"accessToken": []}, {"apiKey": []}],
        **({"x-permission": permission} if permission else {}),
    )


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"[A-Za-z0-9]+", operation.path.removeprefix("/api/v1"))
    return "_".join(["post" if operation.method == "*" else operation.method.lower(), *words])


def _parameters(operation: Operation, schemas: _Schemas) -> Iterator[Parameter]:
    declared = {parameter.name: parameter for parameter in operation.parameters}
    for name in _PATH_PARAMETER.findall(operation.path):
        yield _parameter(name, ParameterLocation.PATH, _SLUG if name in _SLUGS else _ID, required=True)
    for parameter in declared.values():
        schema = schemas.taken(parameter.type)
        yield _parameter(
            parameter.name, ParameterLocation.QUERY, schema, parameter.description, required=parameter.required
        )
    if operation.creates:
        schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
        said = "A text that belongs to this request alone, such as a new UUID."
        yield _parameter("Idempotency-Key", ParameterLocation.HEADER, schema, said)
    if operation.versioned == "change":
        said = "The `ETag` of the version that the change is made to."
        yield _parameter("If-Match", ParameterLocation.HEADER, {"type": "string"}, said)
    if operation.versioned != "no" and operation.method == "GET":
        said = "The `ETag` of what is known already."
        yield _parameter("If-None-Match", ParameterLocation.HEADER, {"type": "string"}, said)


def _parameter(
    name: str, where: ParameterLocation, schema: dict[str, Any], said: str | None = None, *, required: bool = False
) -> Parameter:
    given: dict[str, Any] = {"name": name, "in": where, "schema": schema}
    if said is not None:
        given["description"] = said
    if required:
        given["required"] = True
    return Parameter.model_validate(given)


def _responses(operation: Operation, access: Permission | Open, schemas: _Schemas) -> dict[str, Response | Reference]:
    responses: dict[str, Response | Reference] = {}
    answered: dict[int, Response] = {}
    for answer in operation.answers:
        response = answered.setdefault(answer.status, _answered(operation, answer))
        responses[str(answer.status)] = response
        if answer.body is not None:
            response.content = {
                **(response.content or {}),
                answer.media_type: MediaType(schema=schema_validate(schemas.given(answer.body))),
            }
    if operation.versioned != "no" and operation.method == "GET":
        responses["304"] = Response(description="Nothing has changed.", headers=_tag())
    codes: dict[int, list[str]] = {}
    for kind in _errors_of(operation, access):
        codes.setdefault(status_of_kind(kind), []).append(kind.code)
    for status, known in sorted(codes.items()):
        # An answer that a room describes itself, such as a page, stays as it was described.
        responses.setdefault(str(status), _problem(status, sorted(set(known)), schemas))
    return dict(sorted(responses.items()))


def _answered(operation: Operation, answer: Answer) -> Response:
    headers = {name: _header(said) for name, said in answer.headers}
    if operation.versioned != "no" and answer.status in {HTTPStatus.OK, HTTPStatus.CREATED}:
        headers |= _tag()
    if operation.creates:
        headers["Idempotency-Replayed"] = _header("`true` where the answer is that of an earlier request.")
    return Response(description=answer.description, headers=headers or None)


def _tag() -> dict[str, Header]:
    return {"ETag": _header("The version, for `If-Match` and `If-None-Match`.")}


def _header(said: str) -> Header:
    return Header(description=said, param_schema=schema_validate({"type": "string"}))


def _problem(status: int, codes: list[str], schemas: _Schemas) -> Reference:
    name = f"{status}.{'.'.join(codes)}"
    if name not in schemas.problems:
        schema = {"allOf": [schemas.given(Problem)], "properties": {"code": {"enum": codes}}}
        headers = {}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = _header("What a token has to be (RFC 6750, section 3).")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            headers["Retry-After"] = _header("How many seconds to wait.")
        schemas.problems[name] = Response(
            description=f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}.",
            headers=headers or None,
            content={PROBLEM_TYPE: MediaType(schema=schema_validate(schema))},
        )
    return Reference.model_validate({"$ref": f"#/components/responses/{name}"})


def _errors_of(operation: Operation, access: Permission | Open) -> Iterator[type[AgentAPIError]]:
    yield from operation.errors
    if isinstance(access, Permission):
        yield from _ENTERED
        if operation.method in _CHANGES or operation.versioned == "change":
            yield errors.PreconditionFailedError
    elif operation.path not in _PROBES and access is not Open.BY_MESSAGE:
        yield from _COUNTED
    if operation.body is not None:
        yield from _WITH_BODY
    if operation.parameters:
        yield errors.InvalidRequestError
    if any(parameter.name == "cursor" for parameter in operation.parameters):
        yield errors.InvalidCursorError
    if operation.creates:
        yield from _CREATES


def _inputs_of(operation: Operation) -> Iterable[Any]:
    yield from (parameter.type for parameter in operation.parameters)
    if operation.body is not None:
        yield operation.body


def _short_names(shared: dict[str, Any]) -> dict[str, str]:
    """Return a name for each shared schema: where two rooms have one of one name, it begins with its room's."""
    names = {}
    for full in shared:
        parts = full.removeprefix("agentapi__").split("__")
        names[full] = parts[0].title() + parts[-1] if len(parts) > 1 else full
    return names


def _tidied(schema: Any, names: dict[str, str]) -> Any:  # noqa: ANN401 - JSON
    """Return a schema without the titles that only repeat names, and with references to short names."""
    if isinstance(schema, list):
        return [_tidied(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "$ref" and isinstance(value, str):
            head, _, name = value.rpartition("/")
            tidy[key] = f"{head}/{names.get(name, name)}"
        else:
            tidy[key] = _tidied(value, names)
    return tidy


def _whole_numbers(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return JSON in which a bound that is a whole number is written as one, as it was meant."""
    if isinstance(value, dict):
        return {key: _whole_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
