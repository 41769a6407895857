"""What becomes of a request: users in the table, and one reply that says so."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from app.kafka.batch import Undecodable
from app.kafka.input import Input, identify
from app.outbox import OutboxMessage
from app.settings import Settings
from app.users import events, service, xml
from app.users.documents import FIELDS, Failed, Request, Result, Saved
from app.users.service import EmailTaken, SameEmail, Stored
from app.users.validation import Invalid, NewUser, validate

INVALID, EMAIL_TAKEN = "INVALID", "EMAIL_TAKEN"
"""Codes of the header `error-code`; for requests that could not be read it is the reason of the dead letter."""


class UsersHandler:
    """The `app.kafka.batch.Handler` of users."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError when the XML library is too old."""
        xml.check_library()
        self._settings = settings
        self._encodings = frozenset(settings.users_encodings.split(","))
        self._same_email = SameEmail(settings.users_same_email)

    def decode(self, record: Input) -> Request | Undecodable:
        """The request that the record's value is."""
        settings = self._settings
        parsed = xml.parse(record.value or b"", max_bytes=settings.users_max_bytes, encodings=self._encodings)
        match parsed:
            case Request():
                return parsed
            case _:
                return Undecodable(parsed.reason)

    def identify(self, record: Input, _content: Request | Undecodable) -> str:
        """A request has no id of its own."""
        unique = self._settings.users_correlation_is_unique
        return identify(record, correlation_header=events.correlation_id(record) if unique else None)

    async def handle(self, session: AsyncSession, inputs: Sequence[tuple[Input, Request]]) -> list[OutboxMessage]:
        """Store the users of all requests at once; a reply for each request, with a result for each of its users."""
        checked = [[validate(given) for given in request.users] for _, request in inputs]
        new = [user for users in checked for user in users if isinstance(user, NewUser)]
        stored = iter(await service.create(session, new, same_email=self._same_email))
        replies = []
        for (record, request), users in zip(inputs, checked, strict=True):
            ends = [next(stored) if isinstance(user, NewUser) else user for user in users]
            replies.append(self._reply(record, request, ends))
        return replies

    def _reply(self, record: Input, request: Request, ends: Sequence[Stored | EmailTaken | Invalid]) -> OutboxMessage:
        results: list[Result] = []
        wrong: set[str] = set()
        code = None
        for given, end in zip(request.users, ends, strict=True):
            match end:
                case Stored(id=number):
                    results.append(Saved(number))
                case EmailTaken():
                    code = code or EMAIL_TAKEN
                    wrong.add("email")
                    results.append(Failed(given))
                case Invalid(fields=fields):
                    code = INVALID
                    wrong.update(fields)
                    results.append(Failed(given))
        at_fault = [field for field in (*FIELDS, "other") if field in wrong]
        return events.reply(record, results, self._settings, code=code, fields=at_fault)

    def refuse(self, record: Input, reason: str) -> list[OutboxMessage]:
        """FAILED and nothing else: there is nothing to echo."""
        if not self._settings.users_reply_to_unreadable:
            return []
        return [events.reply(record, [Failed()], self._settings, code=reason)]
