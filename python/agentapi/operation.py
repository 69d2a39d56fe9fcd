"""How a room says what its routes take and answer: the material of the OpenAPI document.

Each room lists its operations beside its routes. What follows from the rest (who may enter, which errors a body, a
cursor or a version brings along) is added where the document is made, so that no operation has to repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, WithJsonSchema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

    from agentapi.errors import AgentAPIError

__all__ = ["Answer", "DumpOf", "Id", "Operation", "Parameter", "Slug", "Time"]

Id: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
Time: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Slug: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)]


@dataclass(frozen=True, slots=True)
class DumpOf:
    """Says of a dictionary that it is the dump of a model; to be put into ``Annotated``."""

    model: Any

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Describe the model in the place of the dictionary."""
        del source
        return handler.generate_schema(self.model)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the query, or of the path where its name stands in the route."""

    name: str
    description: str
    type: Any = str
    """Whatever pydantic can describe."""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that is no error."""

    status: int
    description: str
    body: Any = None
    """Whatever pydantic can describe; None where there is no body."""
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    """Those that are particular to it, each with a description."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a route takes and answers."""

    route: str
    """``METHOD path``, as the table of permissions has it."""
    tag: str
    summary: str
    answers: tuple[Answer, ...]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    """The model of its body; None where there is none."""
    example: Any = None
    """A body that is taken."""
    errors: tuple[type[AgentAPIError], ...] = ()
    """Those that do not follow from anything else."""
    creates: bool = False
    """Whether it makes something new, so that it takes an ``Idempotency-Key``."""
    versioned: Literal["no", "answer", "change"] = "no"
    """Whether its answer has an entity tag, or whether it also changes what ``If-Match`` may name a version of."""
    leads_to: tuple[str, ...] = ()
    """Paths of routes about what its answer is about, besides those below its own path; they end in one parameter."""

    @property
    def method(self) -> str:
        """The method alone."""
        return self.route.partition(" ")[0]

    @property
    def path(self) -> str:
        """The path alone."""
        return self.route.partition(" ")[2]
