"""Requests are read defensively, replies are written as the seed wants them."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigurationError
from app.users import xml
from app.users.documents import FIELDS, Failed, GivenUser, Reason, Request, Saved, Unreadable
from app.users.encoding import UTF_8, UTF_16, WINDOWS_1251
from app.users.xml import is_valid, parse, render
from tests.corpus.cases import Case, load

_CAP = 262_144
_CHEAP = 0.25  # seconds of CPU, for the dearest document
_TRIES = 4
"""A busy machine makes one dearer now and then; a document that is dear is so each time."""
_SEED = """\
	<ns2:Request xmlns:ns2="urn://www.example.com">
	<ns2:User>
	<ns2:Name>Иван</ns2:Name>
	<ns2:Surname>Иванов</ns2:Surname>
	<ns2:Email>ivan.ivanov.2023.2024@yandex.com</ns2:Email>
	<ns2:Birthday>2005-10-23T04:00:00+03:00</ns2:Birthday>
	</ns2:User>
	</ns2:Request>
"""
_IVAN = GivenUser("Иван", "Иванов", "ivan.ivanov.2023.2024@yandex.com", "2005-10-23T04:00:00+03:00")


@pytest.fixture
def canaries(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A file and an address that nobody may touch."""
    file = tmp_path / "canary"
    file.write_text("canary")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield file, listener


def _cost_of_parsing(document: bytes) -> float:
    """Seconds of CPU."""
    started = time.thread_time()
    parse(document, max_bytes=_CAP)
    return time.thread_time() - started


@pytest.mark.parametrize("case", load("xml"), ids=str)
def test_corpus(case: Case, canaries: tuple[Path, socket.socket]) -> None:
    file, listener = canaries
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    document = case.document.replace(b"{canary_file}", bytes(file)).replace(b"{canary_address}", address.encode())
    parsed = parse(document, max_bytes=_CAP)
    assert min(_cost_of_parsing(document) for _ in range(_TRIES)) < _CHEAP
    match case.expect:
        case "GOOD":
            assert isinstance(parsed, Request)
            (user,) = parsed.users
            assert [(getattr(user, field) or "").strip() for field in FIELDS] == [
                "Иван", "Иванов", "a@example.com", "2005-10-23",
            ]  # fmt: skip
            assert user.unexpected == ()
            assert is_valid(document, "request")
        case "INVALID":
            assert isinstance(parsed, Request)
            assert not is_valid(document, "request")
            assert is_valid(render([Failed(user) for user in parsed.users]), "response")
        case reason:
            assert parsed == Unreadable(Reason(reason))
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("case", [case for case in load("xml") if case.family == "encoding"], ids=str)
def test_other_encodings_by_setting(case: Case) -> None:
    parsed = parse(case.document, max_bytes=_CAP, encodings=(UTF_8, UTF_16, WINDOWS_1251))
    match case.case.get("all_encodings", case.expect):
        case "GOOD":
            assert isinstance(parsed, Request)
            assert parsed.users[0].surname == "Иванов"
        case "INVALID":
            assert isinstance(parsed, Request)
        case reason:
            assert parsed == Unreadable(Reason(reason))


def test_the_request_of_the_seed() -> None:
    assert parse(_SEED.encode(), max_bytes=_CAP) == Request((_IVAN,))
    assert is_valid(_SEED.encode(), "request")


def test_the_replies_of_the_seed() -> None:
    success = """\
	<ns2:Response xmlns:ns2="urn://www.example.com">
	<ns2:User>
	<ns2:Id>50</ns2:Id>
	<ns2:Status>SUCCESS</ns2:Status>
	</ns2:User>
	</ns2:Response>
"""
    failed = """\
	<ns2:Response xmlns:ns2="urn://www.example.com">
	<ns2:User>
	<ns2:Name>Иван</ns2:Name>
	<ns2:Surname>Иванов</ns2:Surname>
	<ns2:Email>ivan.ivanov.2023.2024@yandex.com</ns2:Email>
	<ns2:Birthday>2005-10-23T04:00:00+03:00</ns2:Birthday>
	<ns2:Status>FAILED</ns2:Status>
	</ns2:User>
	</ns2:Response>
"""
    assert render([Saved(50)]) == re.sub(r"\s*\n\s*", "", success.strip()).encode()
    assert render([Failed(_IVAN)]) == re.sub(r"\s*\n\s*", "", failed.strip()).encode()


def test_a_reply_to_several_users_keeps_their_order() -> None:
    reply = render([Saved(7), Failed(GivenUser(name="")), Failed(), Saved(8)])
    assert reply == (
        b'<ns2:Response xmlns:ns2="urn://www.example.com">'
        b"<ns2:User><ns2:Id>7</ns2:Id><ns2:Status>SUCCESS</ns2:Status></ns2:User>"
        b"<ns2:User><ns2:Name></ns2:Name><ns2:Status>FAILED</ns2:Status></ns2:User>"
        b"<ns2:User><ns2:Status>FAILED</ns2:Status></ns2:User>"
        b"<ns2:User><ns2:Id>8</ns2:Id><ns2:Status>SUCCESS</ns2:Status></ns2:User>"
        b"</ns2:Response>"
    )
    assert is_valid(reply, "response")


_TEXT = st.text(
    st.characters(
        codec="utf-8", exclude_categories=["Cs"], exclude_characters=[*map(chr, range(9)), "\x0b", "\x0c"]
        + [chr(code) for code in range(14, 32)] + ["\ufffe", "\uffff"],
    )
)  # fmt: skip


@given(st.builds(GivenUser, *[st.none() | _TEXT for _ in FIELDS]))
def test_what_was_given_comes_back_intact(user: GivenUser) -> None:
    reply = render([Failed(user)])
    assert is_valid(reply, "response")
    assert reply.startswith(b"<ns2:Response ")
    again = reply.replace(b"ns2:Response", b"ns2:Request").replace(b"<ns2:Status>FAILED</ns2:Status>", b"")
    assert parse(again, max_bytes=_CAP) == Request((user,))


@pytest.mark.parametrize("text", ["<", "&", "\"'", "]]>", "😀", "\r\t\n", "</ns2:Name>", "&amp;", "\u202e\u200b"])
def test_names_with_markup_come_back_intact(text: str) -> None:
    test_what_was_given_comes_back_intact.hypothesis.inner_test(GivenUser(name=text))  # type: ignore[attr-defined]


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_make_it_fail(document: bytes) -> None:
    assert isinstance(parse(document, max_bytes=_CAP, encodings=(UTF_8, UTF_16)), Request | Unreadable)


def test_the_limit_of_size_is_the_last_byte() -> None:
    document = _SEED.encode()
    assert isinstance(parse(document, max_bytes=len(document)), Request)
    assert parse(document, max_bytes=len(document) - 1) == Unreadable(Reason.TOO_LARGE)


def test_the_library_is_new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    xml.check_library()
    monkeypatch.setattr("lxml.etree.LIBXML_VERSION", (2, 9, 14))
    with pytest.raises(ConfigurationError, match=r"libxml2 2\.9\.14"):
        xml.check_library()
