"""The XML of users: read requests defensively, write replies. Pure functions; the only module that knows lxml.

A request is read in one pass by a target parser, which builds no tree: what is refused ends the reading where it
stands. Names are compared with their namespace, so the prefix does not matter.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

from lxml import etree

from app.errors import ConfigurationError
from app.users import encoding
from app.users.documents import FIELDS, Failed, GivenUser, Reason, Refused, Request, Result, Saved, Unreadable

NAMESPACE = "urn://www.example.com"

MAX_DEPTH = 32
MAX_ELEMENTS = 1000
MAX_ATTRIBUTES = 32
MAX_USERS = 100
"""Most users of one request."""

_OLDEST_LIBXML = (2, 14)  # before it, limits on depth and amplification were looser
_XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
# Hints where a schema could be found. They are never followed.
_HINTS = {_XSI + "schemaLocation", _XSI + "noNamespaceSchemaLocation"}
_OURS = f"{{{NAMESPACE}}}"
_REQUEST, _RESPONSE, _USER, _ID, _STATUS = (_OURS + name for name in ("Request", "Response", "User", "Id", "Status"))
_ELEMENTS = {field: _OURS + field.capitalize() for field in FIELDS}
_FIELD_OF = {element: field for field, element in _ELEMENTS.items()}
_PREFIX = {"ns2": NAMESPACE}
_USER_DEPTH, _FIELD_DEPTH = 1, 2


def check_library() -> None:
    """Raise ConfigurationError when the libxml2 inside lxml is older than what the limits were tested with."""
    if etree.LIBXML_VERSION < _OLDEST_LIBXML:
        version = ".".join(map(str, etree.LIBXML_VERSION))
        raise ConfigurationError(f"lxml was built with libxml2 {version}; at least 2.14 is needed")


def parse(document: bytes, *, max_bytes: int, encodings: Collection[str] = (encoding.UTF_8,)) -> Request | Unreadable:
    """Read a request of at most `max_bytes` bytes, in one of these encodings (see `app.users.encoding`).

    No entity is expanded, nothing is fetched, and anything ambiguous (a comment that splits a value, a document type)
    is refused, so that no other parser can see another value.
    """
    if not document or len(document) > max_bytes:
        return Unreadable(Reason.TOO_LARGE if document else Reason.EMPTY)
    intake = _Intake()
    try:
        parser = etree.XMLParser(
            target=intake,
            encoding=encoding.detect(document, encodings),
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            dtd_validation=False,
            attribute_defaults=False,
            huge_tree=False,
            recover=False,
        )
        etree.XML(document, parser)
    except Refused as refused:
        return Unreadable(refused.reason)
    except etree.XMLSyntaxError as error:
        return Unreadable(intake.refusal or _syntax(error))
    except (etree.LxmlError, LookupError, ValueError):
        return Unreadable(intake.refusal or Reason.NOT_XML)
    return Request(tuple(intake.users)) if intake.users else Unreadable(Reason.NO_USERS)


def _syntax(error: etree.XMLSyntaxError) -> Reason:
    # libxml2's own limits end the reading in the middle of a start tag, before the target hears of it.
    return Reason.TOO_LARGE if error.code == etree.ErrorTypes.ERR_RESOURCE_LIMIT else Reason.NOT_XML


class _Intake:
    """What the parser calls, in the order of the document."""

    def __init__(self) -> None:
        self.users: list[GivenUser] = []
        self.refusal: Reason | None = None
        self._open: list[str] = []
        self._count = 0
        self._given: dict[str, str] = {}
        self._unexpected: list[str] = []
        self._text: list[str] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._end_of_text(allowed=False)
        self._count += 1
        depth = len(self._open)
        self._open.append(tag)
        if attributes:
            self._check_attributes(attributes)
        if depth >= MAX_DEPTH:
            self._refuse(Reason.TOO_DEEP)
        if self._count > MAX_ELEMENTS:
            self._refuse(Reason.TOO_MANY_ELEMENTS)
        if depth == _FIELD_DEPTH:
            if not tag.startswith(_OURS):
                self._refuse_at_end()
        elif depth == _USER_DEPTH:
            if tag != _USER:
                self._refuse(Reason.UNEXPECTED_CONTENT)
            self._given, self._unexpected = {}, []
        elif depth > _FIELD_DEPTH:
            self._refuse_at_end()
        elif tag != _REQUEST:
            self._refuse(Reason.NOT_A_REQUEST)

    def end(self, tag: str) -> None:
        self._open.pop()
        depth = len(self._open)
        text = self._end_of_text(allowed=depth == _FIELD_DEPTH)
        if depth == _FIELD_DEPTH:
            field = _FIELD_OF.get(tag)
            if field is None or field in self._given:
                self._unexpected.append(field or "other")
            else:
                self._given[field] = text
        elif depth == _USER_DEPTH:
            if len(self.users) == MAX_USERS:
                self._refuse(Reason.TOO_MANY_USERS)
            self.users.append(GivenUser(**self._given, unexpected=tuple(self._unexpected)))

    def data(self, text: str) -> None:
        self._text.append(text)

    def doctype(self, *_: object) -> None:
        self._refuse(Reason.DTD_FORBIDDEN)

    def comment(self, _text: str) -> None:
        self._refuse(Reason.COMMENT_FORBIDDEN)

    def pi(self, _target: str, _data: str | None = None) -> None:
        self._refuse(Reason.PI_FORBIDDEN)

    def _check_attributes(self, attributes: Mapping[str, str]) -> None:
        if len(attributes) > MAX_ATTRIBUTES:
            self._refuse(Reason.TOO_MANY_ATTRIBUTES)
        if not _HINTS.issuperset(attributes):
            self._refuse(Reason.UNEXPECTED_CONTENT)

    def _end_of_text(self, *, allowed: bool) -> str:
        """The text since the last tag; space is allowed everywhere."""
        text = "".join(self._text)
        self._text.clear()
        if not allowed and text.strip():
            self._refuse_at_end()
        return text

    def close(self) -> None:
        if self.refusal is not None:
            raise Refused(self.refusal)

    def _refuse_at_end(self) -> None:
        # Reading goes on, so that a document that is not even XML, or too deep, is called that.
        self.refusal = Reason.UNEXPECTED_CONTENT

    def _refuse(self, reason: Reason) -> None:
        self.refusal = reason
        raise Refused(reason)


def render(results: Sequence[Result]) -> bytes:
    """The reply with one User for each result: UTF-8, no declaration, nothing between the elements."""
    response = etree.Element(_RESPONSE, nsmap=_PREFIX)
    for result in results:
        user = etree.SubElement(response, _USER)
        match result:
            case Saved(id=number):
                etree.SubElement(user, _ID).text = str(number)
                etree.SubElement(user, _STATUS).text = "SUCCESS"
            case Failed(given=given):
                for field, element in _ELEMENTS.items():
                    text = getattr(given, field)
                    if text is not None:
                        etree.SubElement(user, element).text = text
                etree.SubElement(user, _STATUS).text = "FAILED"
    document: bytes = etree.tostring(response, encoding=encoding.UTF_8, xml_declaration=False)
    return document


def is_valid(document: bytes, kind: Literal["request", "response"]) -> bool:
    """Does the document, from a source that can be trusted, fit `request.xsd` or `response.xsd` of this package?"""
    try:
        root = etree.fromstring(document, etree.XMLParser(resolve_entities=False, no_network=True))
        return bool(_schema(kind).validate(root))
    except etree.LxmlError:  # XMLSchemaValidateError and XMLSyntaxError among them
        return False


@cache
def _schema(kind: str) -> etree.XMLSchema:
    with (files("app.users") / f"{kind}.xsd").open("rb") as file:
        return etree.XMLSchema(etree.parse(file))
