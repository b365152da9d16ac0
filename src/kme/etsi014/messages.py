"""messages - the JSON bodies of ETSI GS QKD 014, their members' names verbatim.

Members that the standard does not know are ignored in whatever we read; a
member that is null counts as absent; nothing absent is written.
"""

from typing import Annotated, Any, Final, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kme.errors import RequestFieldError

NUMBER: Final = "number"
SIZE: Final = "size"
KEY_ID: Final = "key_ID"
SLAVE_SAE_ID: Final = "slave_SAE_ID"
MASTER_SAE_ID: Final = "master_SAE_ID"

Extension: TypeAlias = dict[str, Any]
"""Name/value pairs; values of any JSON type."""

_MAX_REPORTED: Final = 8
_LONGEST_REPORT: Final = 160


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="ignore",
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a body.

        Raises
        ------
        RequestFieldError
            If it is not JSON, or a member has the wrong type or is missing. What
            the body holds is not repeated in the error.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            fields = [
                {_place(problem["loc"]): problem["msg"][:_LONGEST_REPORT]}
                for problem in problems[:_MAX_REPORTED]
            ]
            message = f"the request body is not a valid {cls.__name__}"
            raise RequestFieldError(message, fields) from None

    def to_json(self) -> bytes:
        """Return the body as compact JSON."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "body"


SOURCE_MEMBER: Final = "kme_source"
"""Member of `Status.status_extension` that tells how the key came to be."""


class Status(Body):
    """Status data format (clause 6.1): what a pair of SAEs may ask for."""

    source_kme_id: Annotated[str, Field(alias="source_KME_ID")]
    target_kme_id: Annotated[str, Field(alias="target_KME_ID")]
    master_sae_id: Annotated[str, Field(alias="master_SAE_ID")]
    slave_sae_id: Annotated[str, Field(alias="slave_SAE_ID")]
    key_size: Annotated[int, Field(description="Default size of a key, in bits.")]
    stored_key_count: Annotated[int, Field(description="Keys of that size to be had now.")]
    max_key_count: Annotated[int, Field(description="Upper bound of stored_key_count.")]
    max_key_per_request: int
    max_key_size: Annotated[int, Field(description="In bits.")]
    min_key_size: Annotated[int, Field(description="In bits.")]
    max_sae_id_count: Annotated[
        int,
        Field(alias="max_SAE_ID_count", description="0: no additional slave SAEs."),
    ]
    status_extension: Extension | None = None


class KeyRequest(Body):
    """Key request data format (clause 6.2): every member may be absent."""

    number: Annotated[int | None, Field(description="How many keys; 1 if absent.")] = None
    size: Annotated[
        int | None, Field(description="Size of each key in bits; key_size of Status if absent.")
    ] = None
    additional_slave_sae_ids: Annotated[
        list[str] | None, Field(alias="additional_slave_SAE_IDs")
    ] = None
    extension_mandatory: list[Extension] | None = None
    extension_optional: list[Extension] | None = None


class KeyEntry(Body):
    """One key of a key container."""

    key_id: Annotated[str, Field(alias=KEY_ID)]
    key_id_extension: Annotated[Extension | None, Field(alias="key_ID_extension")] = None
    key: Annotated[str, Field(repr=False, description="Base64, RFC 4648.")]
    key_extension: Extension | None = None


class KeyContainer(Body):
    """Key container data format (clause 6.3)."""

    keys: list[KeyEntry]
    key_container_extension: Extension | None = None


class KeyIdEntry(Body):
    """One entry of key IDs."""

    key_id: Annotated[str, Field(alias=KEY_ID)]
    key_id_extension: Annotated[Extension | None, Field(alias="key_ID_extension")] = None


class KeyIds(Body):
    """Key IDs data format (clause 6.4)."""

    key_ids: Annotated[list[KeyIdEntry], Field(alias="key_IDs", min_length=1)]
    key_ids_extension: Annotated[Extension | None, Field(alias="key_IDs_extension")] = None


class Error(Body):
    """Error data format (clause 6.5)."""

    message: str
    details: list[dict[str, Any]] | None = None
