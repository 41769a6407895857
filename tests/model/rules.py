"""The rules of the protocol that the explorer can switch off, one at a time, each in one sentence."""

import enum


class Rule(enum.Enum):
    """A rule. The value says what holds while it is on."""

    # Writing
    KEY_LOCK = "a writer locks its key before it draws an id"
    LOCKS_SORTED = "one add takes its locks in one order"
    LOCKS_BEFORE_IDS = "one add takes all its locks before it draws the first id"
    XID_BEFORE_ID = "a transaction has its xid before it draws an id"
    # The floor
    XMIN_NOT_XMAX = "the floor asks for the oldest running transaction, not for the snapshot's end"
    XMIN_OF_THE_FETCH = "the oldest running transaction is that of the fetch, not of the settle"
    MARK_OF_EARLIER_ROUNDS = "the mark is what earlier rounds saw, not what this one saw"
    FLOOR_STOPS_AT_OWED = "the floor does not pass what this fetch left owed or did not reach"
    # Claim and fetch
    LANE_LOCK = "a lane has one holder, by its row lock"
    LOCKED_ROW = "the claim reads the lane's newest row, not that of its snapshot"
    OWN_STATEMENT = "the fetch is a statement of its own, after the claim"
    HELD_READ_LAST = "what holds a message back is read in the fetch, after the lock"
    CUT_TOGETHER = "lists of a lane are cut where one of them was cut"
    # Publishing
    STOP_AT_SILENCE = "nothing is sent to a partition after its first missing answer"
    STOP_AT_REFUSAL = "nothing is sent to a partition after a refused message"
    SINGLY_AFTER_REFUSAL = "after a refused batch its messages are sent one by one"
    # Held messages
    DEAD_LETTER_HOLDS = "an undecided dead letter holds the later messages of its key"
    SAME_MARK = "a dead letter is done returning only if nobody decided it anew meanwhile"
    WAITING_HOLDS = "under `continue`, too, a dead letter holds its key until those that wait behind it may return"
    APPLIED_LATER = "a new policy is applied to dead letters after it was committed"
    MARKED_WHEN_BURIED = "what is refused again under `continue` lets go what waits behind it"
    PARKED_IS_NOTED = "a lane with newly parked messages is written back, however rarely lanes are written"
    # Breakers
    SMALLEST_PROBES = "a half-open topic is tried with its smallest parked id"
    TOPICS_SORTED = "a settle writes the rows of topics in one order, last"
    PROBE_GIVEN_BACK = "a probe of the broker that found nothing to send is given back"
