"""ids - the names of things: KMEs, SAEs, sources, epochs and keys."""

import re
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from kme.errors import IdentifierError
from kme.units import EPOCH_SECONDS, GRANULE_BYTES, granules_of_bytes


class _Identifier(str):
    """A text that was checked against its rule when it was made."""

    __slots__ = ()
    _kind: ClassVar[str]
    _rule: ClassVar[re.Pattern[str]]
    _says: ClassVar[str]

    def __new__(cls, value: str) -> Self:
        if not cls._rule.fullmatch(value):
            shown = value if len(value) <= 80 else value[:77] + "..."
            raise IdentifierError(f"{shown!r} is not a {cls._kind}: {cls._says}")
        return super().__new__(cls, value)


class KmeId(_Identifier):
    """Name of a Key Management Entity (ETSI GS QKD 014 clause 3.1)."""

    _kind = "KME id"
    _rule = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
    _says = "1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit"


class SaeId(_Identifier):
    """Name of a Secure Application Entity; the standard leaves its format open."""

    _kind = "SAE id"
    _rule = re.compile(r"[\x21-\x7e]{1,128}")
    _says = "1 to 128 visible ASCII characters, no space"


class SourceId(_Identifier):
    """Name of what makes key for one pair of KMEs; the same at both ends."""

    _kind = "source id"
    _rule = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
    _says = "1 to 32 lower-case letters, digits, '_' or '-', the first a letter or digit"


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """Number of a stretch of 2^29 ns; it names the files of the photon chain.

    A *local* epoch has 17 bits and repeats every 19.5 h; a *universal* epoch
    counts from 1970 in 32 bits (qcrypto's ``-U``).
    """

    number: int

    LOCAL_BITS: ClassVar[int] = 17
    BITS: ClassVar[int] = 32

    def __post_init__(self) -> None:
        if not 0 <= self.number < 1 << self.BITS:
            raise IdentifierError(f"epoch {self.number} is not in 0..2^{self.BITS} - 1")

    @classmethod
    def from_file_name(cls, name: str) -> "Epoch":
        """Read an epoch from a file's name.

        Raises
        ------
        IdentifierError
            If the name isn't eight lower-case hexadecimal digits.
        """
        if not re.fullmatch(r"[0-9a-f]{8}", name):
            raise IdentifierError(
                f"{name!r} is not an epoch: eight lower-case hexadecimal digits are"
            )
        return cls(int(name, 16))

    @classmethod
    def at_time(cls, unix_s: float) -> "Epoch":
        """Return the universal epoch that holds this moment."""
        return cls(int(unix_s / EPOCH_SECONDS) % (1 << cls.BITS))

    @property
    def file_name(self) -> str:
        """The epoch as eight lower-case hexadecimal digits."""
        return f"{self.number:08x}"

    @property
    def is_local(self) -> bool:
        """Whether the number fits the 17 bits of a local epoch."""
        return self.number < 1 << self.LOCAL_BITS

    def extended(self, near: "Epoch") -> "Epoch":
        """Return the universal epoch nearest to `near` that this local epoch stands for.

        A universal epoch is returned as it is.

        Examples
        --------
        >>> Epoch(0x04F86).extended(near=Epoch(0xC74E4F00)).file_name
        'c74e4f86'
        """
        if not self.is_local:
            return self
        period = 1 << self.LOCAL_BITS
        ahead = (self.number - near.number + period // 2) % period - period // 2
        return Epoch((near.number + ahead) % (1 << self.BITS))

    def __str__(self) -> str:
        return self.file_name


_UUID_TEXT: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class KeyId:
    """Identifier of a key: a UUID of version 8 (RFC 9562 section 5.8) that certifies itself.

    Its 122 free bits are, from the most significant one: block number (34),
    offset in granules (13), length in bytes less one (13), tag (62). What the
    tag is made of stands in `kme.supply.key_id`.

    Parameters
    ----------
    block_number
        Which block of the pair, ``0 <= block_number < 2**34``.
    offset_granules
        Where in the block the key starts, in units of 8 bytes.
    n_bytes
        How long the key is, ``1 <= n_bytes <= 8192``.
    tag
        Truncated authentication tag, ``0 <= tag < 2**62``.
    """

    block_number: int
    offset_granules: int
    n_bytes: int
    tag: int

    NUMBER_BITS: ClassVar[int] = 34
    OFFSET_BITS: ClassVar[int] = 13
    LENGTH_BITS: ClassVar[int] = 13
    TAG_BITS: ClassVar[int] = 62
    MAX_BYTES: ClassVar[int] = 1 << 13

    def __post_init__(self) -> None:
        # Shifted by its width, a value in range leaves nothing, and a negative one leaves -1.
        if (
            self.block_number >> self.NUMBER_BITS
            or self.offset_granules >> self.OFFSET_BITS
            or (self.n_bytes - 1) >> self.LENGTH_BITS
            or self.tag >> self.TAG_BITS
        ):
            raise IdentifierError("a key_ID's block number, offset, length or tag is out of range")

    @classmethod
    def parse(cls, text: str) -> "KeyId":
        """Read a key_ID as it stands on the wire.

        Raises
        ------
        IdentifierError
            If the text isn't a UUID, or its version isn't 8 or its variant not
            that of RFC 9562.
        """
        if not _UUID_TEXT.fullmatch(text):
            raise IdentifierError("a key_ID is a UUID: 32 hexadecimal digits as 8-4-4-4-12")
        value = int(text.replace("-", ""), 16)
        if (value >> 76) & 0xF != 8 or (value >> 62) & 0b11 != 0b10:
            raise IdentifierError("this UUID is not a key_ID of a KME of this kind")
        bits = (value >> 80) << 74 | ((value >> 64) & 0xFFF) << 62 | value & ((1 << 62) - 1)
        tag = bits & ((1 << cls.TAG_BITS) - 1)
        bits >>= cls.TAG_BITS
        length = bits & ((1 << cls.LENGTH_BITS) - 1)
        bits >>= cls.LENGTH_BITS
        offset = bits & ((1 << cls.OFFSET_BITS) - 1)
        return cls(bits >> cls.OFFSET_BITS, offset, length + 1, tag)

    def __str__(self) -> str:
        bits = self.block_number
        bits = bits << self.OFFSET_BITS | self.offset_granules
        bits = bits << self.LENGTH_BITS | self.n_bytes - 1
        bits = bits << self.TAG_BITS | self.tag
        value = (bits >> 74) << 80 | 8 << 76 | ((bits >> 62) & 0xFFF) << 64 | 0b10 << 62
        digits = f"{value | bits & ((1 << 62) - 1):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    @property
    def offset_bytes(self) -> int:
        """Where in the block the key starts, in bytes."""
        return self.offset_granules * GRANULE_BYTES

    @property
    def n_granules(self) -> int:
        """How many granules of the ledger the key occupies."""
        return granules_of_bytes(self.n_bytes)
