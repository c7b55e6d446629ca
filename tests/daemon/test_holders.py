"""Who holds stdin: by examples, and whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from psync.daemon.holders import MOST_AWAY, Holders, Who

A, B, C = (Who("desk", name) for name in "abc")


def test_the_first_holds_it_and_the_next_ones_wait_their_turn() -> None:
    holders = Holders()
    for who in (A, B, C):
        holders.attach(who)
    assert (holders.holder, holders.waiting) == (A, (B, C))
    holders.detach(A)
    assert (holders.holder, holders.waiting) == (B, (C,))
    holders.detach(C)
    holders.detach(B)
    assert (holders.holder, holders.waiting) == (None, ())


def test_a_lost_connection_keeps_its_claim() -> None:
    holders = Holders()
    holders.attach(A)
    holders.attach(B)
    holders.lose(A)
    assert holders.holder == A
    holders.attach(A)
    assert (holders.holder, holders.waiting) == (A, (B,))


def test_one_that_is_away_for_too_long_loses_it_to_who_waits() -> None:
    holders = Holders()
    for who in (A, B, C):
        holders.attach(who)
    holders.expire()  # it is here
    assert holders.holder == A
    holders.lose(B)
    holders.lose(A)
    holders.expire()
    assert (holders.holder, holders.waiting) == (C, (B, A))
    holders.attach(A)
    assert (holders.holder, holders.waiting) == (C, (B, A))


def test_where_nobody_waits_one_that_is_away_keeps_it() -> None:
    holders = Holders()
    holders.attach(A)
    holders.lose(A)
    holders.expire()
    assert holders.holder == A
    ended = Holders()
    for who in (A, B):
        ended.attach(who)
    ended.freeze()
    ended.lose(A)
    ended.expire()
    assert ended.holder == A


def test_who_attaches_takes_it_from_one_that_is_away() -> None:
    holders = Holders()
    holders.attach(A)
    holders.lose(A)
    holders.attach(B)
    assert holders.holder == B
    holders.attach(A)  # back too late, and not a new one: it does not take it back from B
    holders.lose(B)
    assert (holders.holder, holders.waiting) == (B, (A,))
    holders.detach(B)
    assert holders.holder == A


def test_one_that_comes_back_takes_nothing() -> None:
    holders = Holders()
    for who in (A, B):
        holders.attach(who)
    for who in (A, B):
        holders.lose(who)
    holders.attach(B)
    assert holders.holder == A
    holders.attach(C)
    assert (holders.holder, holders.waiting) == (C, (B, A))


def test_the_next_daemon_goes_on_from_there() -> None:
    holders = Holders(A, (B,))
    holders.attach(B)
    assert holders.holder == A
    holders.attach(A)
    assert (holders.holder, holders.waiting) == (A, (B,))


def test_nobody_who_is_away_inherits_it() -> None:
    holders = Holders()
    for who in (A, B, C):
        holders.attach(who)
    holders.lose(B)
    holders.detach(A)
    assert holders.holder == C


def test_one_that_cannot_be_told_waits_for_nothing_and_takes_nothing_back() -> None:
    holders = Holders()
    holders.attach(A, waits=False)
    holders.lose(A)
    holders.attach(B)
    holders.attach(A, waits=False)
    holders.lose(B)
    holders.attach(A, waits=False)
    assert holders.holder == B
    holders.attach(B)
    holders.detach(B)
    assert holders.holder is None


def test_once_stdin_has_ended_it_stays_whose_it_was() -> None:
    holders = Holders()
    holders.attach(A)
    holders.attach(B)
    holders.freeze()
    holders.lose(A)
    holders.attach(C)
    holders.detach(A)
    assert holders.holder == A


def test_who_is_away_is_not_remembered_for_ever() -> None:
    holders = Holders()
    holders.attach(A)
    for number in range(MOST_AWAY + 10):
        who = Who("desk", str(number))
        holders.attach(who)
        holders.lose(who)
    assert len(holders.waiting) == MOST_AWAY
    assert holders.waiting[0] == Who("desk", "10")
    assert holders.holder == A


WHO = st.sampled_from([Who("desk", name) for name in "abcdef"])


class AnyOrder(RuleBasedStateMachine):
    """Stdin changes hands only as the rules say."""

    def __init__(self) -> None:
        super().__init__()
        self.holders = Holders()
        self.here: set[Who] = set()
        self.known: set[Who] = set()

    @rule(who=WHO)
    def attach(self, who: Who) -> None:
        before = self.holders.holder
        self.holders.attach(who)
        free = before is None or (before not in self.here and who not in self.known)
        assert self.holders.holder == (who if free else before)
        self.here.add(who)
        self.known.add(who)

    @rule(who=WHO)
    def lose(self, who: Who) -> None:
        before = self.holders.holder
        self.holders.lose(who)
        assert self.holders.holder == before
        self.here.discard(who)

    @rule(who=WHO)
    def detach(self, who: Who) -> None:
        before, queue = self.holders.holder, self.holders.waiting
        self.holders.detach(who)
        heir = next((one for one in queue if one in self.here and one != who), None)
        assert self.holders.holder == (before if before != who else heir)
        self.here.discard(who)
        self.known.discard(who)

    @rule()
    def expire(self) -> None:
        before, queue = self.holders.holder, self.holders.waiting
        self.holders.expire()
        heir = next((one for one in queue if one in self.here), None)
        away = before is not None and before not in self.here
        assert self.holders.holder == (heir if away and heir is not None else before)

    @invariant()
    def everybody_is_in_one_place(self) -> None:
        waiting = self.holders.waiting
        assert len(set(waiting)) == len(waiting)
        assert self.holders.holder not in waiting
        assert {*waiting, *filter(None, [self.holders.holder])} == self.known
        if self.holders.holder is None:
            assert not self.here


TestAnyOrder = AnyOrder.TestCase
