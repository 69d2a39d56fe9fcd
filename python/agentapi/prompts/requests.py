"""What a client may send about prompts, checked field by field; the variables are also kept in this form."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from agentapi.prompts.models import MAX_VALUE, Content, Kind, Scope, Variable
from agentapi.prompts.template import names_in

__all__ = ["VARIABLES", "ComposeInput", "PromptInput", "RollbackInput", "VariableInput"]

_Line = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]
_Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)]
_VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
_ValueText = Annotated[str, Field(max_length=MAX_VALUE)]
_Value = bool | int | float | _ValueText


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class VariableInput(_Strict):
    """One declared variable."""

    name: _VariableName
    type: Annotated[Kind, Field(strict=False)] = Kind.STRING
    description: _Line = ""
    default: _Value | None = None
    choices: Annotated[tuple[_Line, ...], Field(max_length=100, strict=False)] = ()
    max_length: Annotated[int, Field(ge=1, le=MAX_VALUE)] = 500
    multiline: bool = False

    @model_validator(mode="after")
    def _is_of_its_type(self) -> Self:
        variable = self.variable()
        if self.choices and self.type is not Kind.STRING:
            raise PydanticCustomError("choices", "Only a string has choices.")
        if self.default is not None:
            try:
                variable.read(self.default)
            except ValueError as error:
                raise PydanticCustomError("default", f"The default does not fit: {error}") from None
        return self

    def variable(self) -> Variable:
        """Return the variable."""
        return Variable(
            self.name, self.type, self.description, self.default, self.choices, self.max_length, self.multiline
        )

    @classmethod
    def of(cls, variable: Variable) -> Self:
        """Return a variable in the form in which it was sent."""
        return cls(
            name=variable.name,
            type=variable.kind,
            description=variable.description,
            default=variable.default,
            choices=variable.choices,
            max_length=variable.max_length,
            multiline=variable.multiline,
        )


VARIABLES = TypeAdapter(tuple[VariableInput, ...])
"""The variables of a prompt as they are kept."""


class PromptInput(_Strict):
    """Body of a prompt: the whole of it."""

    scope: Annotated[Scope, Field(strict=False)] = Scope.USER
    workspace: _Slug | None = None
    name: _Slug
    text: Annotated[str, Field(max_length=32768, pattern=r"^[^\x00]*$")]
    variables: Annotated[tuple[VariableInput, ...], Field(max_length=50, strict=False)] = ()
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    description: _Line = ""
    enabled: bool = True

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.scope is Scope.WORKSPACE) is not (self.workspace is not None):
            raise PydanticCustomError("workspace", "A workspace is named for the scope 'workspace' and for no other.")
        declared = [variable.name for variable in self.variables]
        if len(set(declared)) < len(declared):
            raise PydanticCustomError("variable_twice", "Two variables have one name.")
        unknown = sorted(names_in(self.text) - set(declared))
        if unknown:
            raise PydanticCustomError("unknown_variable", f"The text uses {unknown[0]}, which is not declared.")
        return self

    def content(self) -> Content:
        """Return what a version of the prompt will hold."""
        variables = tuple(variable.variable() for variable in self.variables)
        return Content(self.text, variables, self.priority, self.description, self.enabled)


class RollbackInput(_Strict):
    """Body of a rollback."""

    version: Annotated[int, Field(ge=1, lt=2**63)]


class ComposeInput(_Strict):
    """Body of a composition."""

    workspace: _Slug = "main"
    variables: Annotated[dict[_VariableName, _Value], Field(max_length=500)] = {}
