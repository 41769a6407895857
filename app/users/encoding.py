"""In which encoding a document is, by its first bytes (XML 1.0, appendix F)."""

import codecs
import re
from collections.abc import Collection

from app.users.documents import Reason, Refused

UTF_8, UTF_16, WINDOWS_1251 = "utf-8", "utf-16", "windows-1251"
"""What can be accepted."""

_DECLARATION = re.compile(
    r"""<\?xml\s+version\s*=\s*(?P<q>["'])(?P<version>.*?)(?P=q)"""
    r"""(?:\s+encoding\s*=\s*(?P<r>["'])(?P<encoding>.*?)(?P=r))?"""
)
_DECLARATION_BYTES = 200
_UTF_32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NAMES_OF_UTF_8 = {"utf-8", "utf8", "us-ascii", "ascii"}
_NAMES_OF_UTF_16 = {"utf-16", "utf-16le", "utf-16be"}
_NAMES_OF_WINDOWS_1251 = {"windows-1251", "cp1251"}


def detect(document: bytes, accepted: Collection[str]) -> str:
    """The encoding to force upon the parser, which by itself would take some (UTF-7) that change the markup.

    Raises Refused when it is none of `accepted`, or when mark and declaration do not agree.
    """
    if document.startswith(_UTF_32_MARKS):
        raise Refused(Reason.UNSUPPORTED_ENCODING)
    if document.startswith(_UTF_16_MARKS):
        head = document[: 2 * _DECLARATION_BYTES].decode("utf-16", "ignore")
        encoding, names = UTF_16, _NAMES_OF_UTF_16
    elif b"\0" in document[:4]:
        raise Refused(Reason.UNSUPPORTED_ENCODING)
    else:
        head = document.removeprefix(codecs.BOM_UTF8)[:_DECLARATION_BYTES].decode("latin-1")
        encoding, names = UTF_8, _NAMES_OF_UTF_8
    declaration = _DECLARATION.match(head.removeprefix("\ufeff"))
    if declaration is not None:
        if declaration["version"] != "1.0":
            raise Refused(Reason.NOT_XML)
        declared = (declaration["encoding"] or encoding).lower()
        if declared in _NAMES_OF_WINDOWS_1251 and encoding == UTF_8 and not document.startswith(codecs.BOM_UTF8):
            encoding, names = WINDOWS_1251, _NAMES_OF_WINDOWS_1251
        if declared not in names:
            raise Refused(Reason.UNSUPPORTED_ENCODING)
    if encoding not in accepted:
        raise Refused(Reason.UNSUPPORTED_ENCODING)
    # Forced upon libxml2, "utf-16" alone means little-endian.
    return "utf-16be" if document.startswith(codecs.BOM_UTF16_BE) else encoding
