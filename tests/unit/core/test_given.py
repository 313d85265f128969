"""Whoever gave a task away hears of its outcome, and can say who has it."""

from __future__ import annotations

from tests.support.machines import hello, link_to, outcome, task_id
from tests.unit.core.handing import Network, Node
from zmqtasks.core.calls import UNKNOWN_STATUS
from zmqtasks.core.effects import Send, TasksSettled
from zmqtasks.core.given import WATCH_REQUEST, GivenTasks
from zmqtasks.core.kept import KeptOutcomes
from zmqtasks.core.links import LinkId
from zmqtasks.core.outbox import Outbox
from zmqtasks.limits import (
    ANSWERS_PER_LINK_MAX,
    BATCH_COUNT_MAX,
    GIVEN_REMEMBERED_MAX,
    HANDOFF_IDS_MAX,
)
from zmqtasks.wire.messages import Done, Outcome, Query, StateRecord, States, TaskState

G, T, U = b"giver-01", b"taker-01", b"taker-02"
ONE, TWO = task_id(1), task_id(2)


class Giver:
    """The machine, and links to nodes that are only in the test."""

    def __init__(self, grace_ms: int = 0) -> None:
        self.kept = KeptOutcomes()
        self.owned: set[bytes] = set()
        self.given = GivenTasks(self.kept, grace_ms, node=G, owned=self.owned)
        self.now_ms = 0

    def link(self, node: bytes, epoch: int = 1) -> LinkId:
        link = link_to(node, "out", epoch)
        self.given.link_up(link, hello(node, "broker", epoch=epoch))
        return link

    def unlink(self, link: LinkId) -> None:
        self.given.link_down(link, hello(link.peer[1:9], "broker"), "gone")

    def news(self, link: LinkId, *records: StateRecord, request: int = WATCH_REQUEST) -> bool:
        return self.given.received(link, States(request, list(records)), self.now_ms)

    def turn(self, now_ms: int = 0) -> list[Outcome]:
        self.now_ms = now_ms
        return self.given.flush(now_ms)

    def answer_all(self, *records: StateRecord) -> None:
        """Everybody who was asked since that was last looked at says so."""
        for to, query in self.asked():
            self.news(to, *records, request=query.request)

    def asked(self) -> list[tuple[LinkId, Query]]:
        """Who was asked what since this was last looked at."""
        effects, self.given.effects = self.given.effects, []
        return [
            (effect.link, effect.message)
            for effect in effects
            if isinstance(effect, Send) and isinstance(effect.message, Query)
        ]


def settled(number: int) -> StateRecord:
    return StateRecord(task_id(number), TaskState.SETTLED, {}, outcome(number))


def unknown(task: bytes) -> StateRecord:
    return StateRecord(task, TaskState.UNKNOWN, {}, None)


def pending(task: bytes, **info: object) -> StateRecord:
    return StateRecord(task, TaskState.PENDING, dict(info), None)


def unsettled(task: bytes, **info: object) -> StateRecord:
    return StateRecord(task, TaskState.UNSETTLED, dict(info), outcome(1))


def test_a_task_that_was_back_in_between_is_remembered_as_long_as_those_given_with_it() -> None:
    giver = Giver()
    giver.given.gave([ONE], T, follow=False)
    giver.given.back([ONE])
    giver.given.gave([TWO, ONE], U, follow=False)
    others = [task_id(number) for number in range(10, 8 + GIVEN_REMEMBERED_MAX)]
    giver.given.gave(others, T, follow=False)
    assert [giver.given.taker_of(task) for task in (TWO, ONE)] == [U, U]
    giver.given.gave([task_id(3)], T, follow=False)
    assert [giver.given.taker_of(task) for task in (TWO, ONE)] == [None, U]


def test_outcome_of_a_given_task_settles_it_here() -> None:
    giver = Giver()
    link = giver.link(T)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, settled(1))
    assert giver.turn() == [outcome(1)]
    assert giver.given.effects == [TasksSettled([outcome(1)])]
    assert giver.kept.get(ONE) == outcome(1)
    assert giver.given.following == {}


def test_a_former_owner_tells_which_call_a_chosen_id_stood_for() -> None:
    giver = Giver()
    giver.given.gave([ONE, TWO], T, follow=False, exts=[None, {"c": b"digest"}])
    told = [giver.given.state_of(task) for task in (ONE, TWO)]
    assert ["c" in state.info for state in told if state is not None] == [False, True]
    giver.given.back([TWO])
    giver.given.gave([TWO], T, follow=False)
    again = giver.given.state_of(TWO)
    assert again is not None
    assert "c" not in again.info


def test_same_news_again_is_none() -> None:
    giver = Giver()
    link = giver.link(T)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, settled(1))
    giver.news(link, settled(1), settled(2))
    assert giver.turn() == [outcome(1)]
    assert giver.turn() == []


def test_answers_to_other_questions_are_left_alone() -> None:
    giver = Giver()
    link = giver.link(T)
    assert not giver.news(link, settled(1), request=7)


def test_taker_is_asked_again_on_each_new_link() -> None:
    giver = Giver()
    giver.given.gave([ONE, TWO], T, follow=True)
    link = giver.link(T)
    assert giver.asked() == [(link, Query(WATCH_REQUEST, [ONE, TWO], True))]
    giver.unlink(link)
    again = giver.link(T, epoch=2)
    assert giver.asked() == [(again, Query(WATCH_REQUEST, [ONE, TWO], True))]


def test_other_link_to_the_taker_is_used_when_one_is_gone() -> None:
    giver = Giver()
    giver.given.gave([ONE], T, follow=True)
    first = giver.link(T)
    second = link_to(T, "in")
    giver.given.link_up(second, hello(T, "broker"))
    giver.asked()
    giver.unlink(first)
    assert giver.asked() == [(second, Query(WATCH_REQUEST, [ONE], True))]


def test_many_tasks_are_asked_for_in_few_messages() -> None:
    giver = Giver()
    ids = [task_id(number) for number in range(10_000)]
    giver.given.gave(ids, T, follow=True)
    giver.link(T)
    asked = [query.ids for _, query in giver.asked()]
    assert len(asked) == -(-10_000 // HANDOFF_IDS_MAX)
    assert [task for part in asked for task in part] == ids


def test_task_that_went_on_is_followed_to_its_next_owner() -> None:
    giver = Giver()
    first, second = giver.link(T), giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.news(first, pending(ONE, taker=U))
    assert giver.asked() == [(second, Query(WATCH_REQUEST, [ONE], True))]
    assert giver.given.taker_of(ONE) == U
    giver.news(second, settled(1))
    assert giver.turn() == [outcome(1)]


def test_heir_of_the_taker_is_asked() -> None:
    giver = Giver()
    giver.given.gave([ONE], T, follow=True)
    heir = giver.link(U)
    giver.given.inherited(U, [T])
    assert giver.asked() == [(heir, Query(WATCH_REQUEST, [ONE], True))]


def test_heir_of_a_node_that_is_named_when_it_has_ended_already_is_asked() -> None:
    giver = Giver()
    taker, heir = giver.link(T), giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.given.inherited(U, [b"taker-03"])
    giver.news(taker, pending(ONE, taker=b"taker-03"))
    assert giver.asked() == [(heir, Query(WATCH_REQUEST, [ONE], True))]


def test_task_given_to_a_node_that_had_an_heir_is_with_the_heir() -> None:
    giver = Giver()
    giver.given.inherited(U, [T])
    giver.given.gave([ONE], T, follow=False)
    assert giver.given.taker_of(ONE) == U


def test_task_that_ended_at_a_node_whose_heir_this_one_is_is_asked_for_everywhere() -> None:
    """Its taker had taken it out of its journal, and died before it told anybody."""
    giver = Giver()
    other = giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.given.inherited(G, [T])
    assert giver.given.state_of(ONE) is None, "nobody is to look for it at the node that has ended"
    giver.turn()
    ((to, query),) = giver.asked()
    assert to == other
    giver.news(other, pending(ONE, taker=G), request=query.request)
    assert giver.turn() == []
    giver.answer_all(pending(ONE, taker=G))
    assert [found.status for found in giver.turn()] == [UNKNOWN_STATUS]


def test_task_that_came_back_with_the_journal_of_its_taker_is_followed_no_more() -> None:
    giver = Giver()
    giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.owned.add(ONE)
    giver.given.inherited(G, [T])
    assert giver.turn() == []
    assert giver.asked() == []
    assert giver.given.following == {}


def test_former_owners_that_name_each_other_s_taker_do_not_wait_for_ever() -> None:
    """It has ended there, and the taker does not know it any more."""
    giver = Giver()
    taker, former = giver.link(T), giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.news(taker, unknown(ONE))
    giver.turn()
    request = giver.asked()[0][1].request
    giver.news(taker, unknown(ONE), request=request)
    giver.news(former, pending(ONE, taker=T), request=request)
    assert giver.turn() == []
    for to, query in giver.asked():
        said = unknown(ONE) if to == taker else pending(ONE, taker=T)
        giver.news(to, said, request=query.request)
    assert [found.status for found in giver.turn()] == [UNKNOWN_STATUS]


def test_nothing_is_concluded_while_the_taker_is_away() -> None:
    giver = Giver()
    giver.unlink(giver.link(T))
    giver.given.gave([ONE], T, follow=True)
    assert giver.turn(3_600_000) == []
    assert giver.given.next_deadline_ms() is None
    record = giver.given.state_of(ONE)
    assert record is not None
    assert record.state == TaskState.PENDING
    assert "out of reach" in record.info["why"]


def test_task_that_its_taker_does_not_know_is_asked_for_everywhere() -> None:
    giver = Giver()
    link, other = giver.link(T), giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unknown(ONE))
    giver.turn()
    asked = giver.asked()
    assert [to for to, _ in asked] == [link, other]
    request = asked[0][1].request
    assert request < 0
    giver.news(link, unknown(ONE), request=request)
    giver.news(other, settled(1), request=request)
    assert giver.turn() == [outcome(1)]


def test_task_that_nobody_knows_is_unknown_after_the_grace() -> None:
    giver = Giver(grace_ms=1_500)
    link = giver.link(T)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unknown(ONE))
    for now_ms in (0, 1_000, 3_000, 3_000):
        assert giver.turn(now_ms) == []
        giver.answer_all(unknown(ONE))
    ended = giver.turn(3_000)
    assert [(found.id, found.status) for found in ended] == [(ONE, UNKNOWN_STATUS)]
    assert giver.kept.get(ONE) is None


def test_nothing_is_unknown_while_somebody_is_away_who_may_have_it() -> None:
    giver = Giver()
    away = [True]
    giver.given.is_heir_away = lambda: away[0]
    link = giver.link(T)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unknown(ONE))
    ended: list[int] = []
    for now_ms in range(0, 200_000, 1_000):
        away[0] = now_ms < 100_000
        ended += [now_ms] * len(giver.turn(now_ms))
        for to, query in giver.asked():
            giver.news(to, unknown(ONE), request=query.request)
    assert len(ended) == 1
    assert ended[0] > 100_000


def test_task_that_somebody_else_owns_is_followed_there() -> None:
    giver = Giver()
    link, other = giver.link(T), giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unknown(ONE))
    giver.turn()
    request = giver.asked()[0][1].request
    giver.news(link, unknown(ONE), request=request)
    giver.news(other, pending(ONE, owned=True), request=request)
    assert giver.asked() == [(other, Query(WATCH_REQUEST, [ONE], True))]
    assert giver.given.next_deadline_ms() is None


def test_outcome_that_no_owner_decided_on_stands_when_no_owner_is_left() -> None:
    giver = Giver()
    link = giver.link(T)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unknown(ONE))
    giver.turn()
    request = giver.asked()[0][1].request
    record = StateRecord(ONE, TaskState.UNSETTLED, {}, outcome(1))
    giver.news(link, record, request=request)
    assert giver.turn() == [outcome(1)]


def test_taker_that_ran_a_task_itself_and_does_not_own_it_is_no_reason_to_wait() -> None:
    """Its owner was killed when the task had left its journal and nobody had heard of that,
    and its heir is the worker. Everybody else's giver asked for more; this one waited."""
    giver = Giver()
    link = giver.link(T)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unsettled(ONE))
    giver.turn()
    (asked,) = giver.asked()
    giver.news(link, unsettled(ONE), request=asked[1].request)
    assert giver.turn() == [outcome(1)]


def test_outcome_that_no_owner_decided_on_does_not_stand_where_somebody_owns_the_task() -> None:
    giver = Giver()
    link, other = giver.link(T), giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unsettled(ONE))
    giver.turn()
    request = giver.asked()[0][1].request
    giver.news(link, unsettled(ONE), request=request)
    giver.news(other, pending(ONE, owned=True), request=request)
    assert giver.turn() == []
    assert giver.given.following == {ONE: U}


def test_nor_where_somebody_may_become_its_owner() -> None:
    giver = Giver()
    link, other = giver.link(T), giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unsettled(ONE, offer=3))
    giver.turn()
    assert giver.asked() == []
    giver.news(link, unsettled(ONE))
    giver.turn()
    request = giver.asked()[0][1].request
    giver.news(link, unsettled(ONE), request=request)
    giver.news(other, pending(ONE, offer=3), request=request)
    assert giver.turn() == []


def test_task_that_somebody_holds_is_waited_for() -> None:
    giver = Giver()
    link = giver.link(T)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unknown(ONE))
    giver.turn()
    giver.news(link, pending(ONE), request=giver.asked()[0][1].request)
    assert giver.turn() == []
    assert giver.given.next_deadline_ms() == 1_000


def test_peer_that_is_lost_does_not_hold_the_answer_up() -> None:
    giver = Giver()
    link, other = giver.link(T), giver.link(U)
    giver.given.gave([ONE], T, follow=True)
    giver.news(link, unknown(ONE))
    giver.turn()
    request = giver.asked()[0][1].request
    giver.news(link, unknown(ONE), request=request)
    giver.unlink(other)
    assert giver.turn() == []
    giver.answer_all(unknown(ONE))
    assert [found.status for found in giver.turn()] == [UNKNOWN_STATUS]


def test_outcome_that_went_from_a_worker_to_a_store_between_their_answers_is_found() -> None:
    giver = Giver()
    taker, worker, store = giver.link(T), giver.link(U), giver.link(b"thestore")
    giver.given.gave([ONE], T, follow=True)
    giver.news(taker, unknown(ONE))
    giver.turn()
    request = giver.asked()[0][1].request
    for link in (taker, store, worker):  # the store has it when the worker is asked
        giver.news(link, unknown(ONE), request=request)
    assert giver.turn() == []
    for to, query in giver.asked():
        giver.news(to, settled(1) if to == store else unknown(ONE), request=query.request)
    assert giver.turn() == [outcome(1)]


def test_outcome_of_a_worker_that_is_lost_before_it_answers_is_found_in_a_store() -> None:
    giver = Giver()
    taker, worker, store = giver.link(T), giver.link(U), giver.link(b"thestore")
    giver.given.gave([ONE], T, follow=True)
    giver.news(taker, unknown(ONE))
    giver.turn()
    request = giver.asked()[0][1].request
    for link in (taker, store):
        giver.news(link, unknown(ONE), request=request)
    giver.unlink(worker)
    assert giver.turn() == []
    for to, query in giver.asked():
        giver.news(to, settled(1) if to == store else unknown(ONE), request=query.request)
    assert giver.turn() == [outcome(1)]


def test_former_owner_says_who_has_a_task() -> None:
    giver = Giver()
    giver.given.gave([ONE], T, follow=False)
    giver.link(T)
    record = giver.given.state_of(ONE)
    assert record is not None
    assert record.info == {
        "why": "it was handed to taker-01, which owns it now", "taker": T,
    }  # fmt: skip
    assert giver.given.state_of(TWO) is None
    giver.given.back([ONE])
    assert giver.given.state_of(ONE) is None


def test_memory_of_given_tasks_is_bounded() -> None:
    giver = Giver()
    ids = [task_id(number) for number in range(GIVEN_REMEMBERED_MAX + 10)]
    giver.given.gave(ids, T, follow=False)
    assert giver.given.taker_of(ids[9]) is None
    assert giver.given.taker_of(ids[10]) == T


def test_giver_that_takes_no_answers_for_long_hears_of_its_tasks_in_the_end() -> None:
    outbox = Outbox(lambda link: 1 << 40)
    link = link_to(G)
    for number in range(ANSWERS_PER_LINK_MAX + 1):
        outbox.put(link, WATCH_REQUEST, [settled(number)])
        outbox.put(link, 1, [settled(number)])
    outbox.flush()
    assert outbox.effects == []
    outbox._unacked_bytes = lambda link: 0
    while outbox.is_waiting(link):
        outbox.flush()
    told = [
        message.states[0].id
        for message in (effect.message for effect in outbox.effects if isinstance(effect, Send))
        if isinstance(message, States) and message.request == WATCH_REQUEST
    ]
    assert told == [task_id(number) for number in range(ANSWERS_PER_LINK_MAX + 1)]


# --- with a taker -------------------------------------------------------------------------


def given_to_a_broker(count: int) -> tuple[Network, Node, Node]:
    giver, taker = Node(G, "producer", route="broker"), Node(T, "broker")
    net = Network([giver, taker])
    net.connect(G, T)
    giver.dispatcher.tasks_max = 10_000
    giver.submit(list(range(1, count + 1)))
    net.settle_down()
    assert giver.dispatcher.tasks == {}
    return net, giver, taker


def test_outcomes_come_in_batches() -> None:
    net, giver, taker = given_to_a_broker(500)
    end = net.connections[G, T].ends[0]
    for task in list(taker.running):
        taker.running.pop(task)
        taker.dispatcher.received(taker.worker, _done(task), 0)
    taker.turn()
    while taker.writes:
        taker.write()
    net.carry(taker)
    news = [message for message in end.incoming if isinstance(message, States)]
    assert len(news) == -(-500 // BATCH_COUNT_MAX)
    net.settle_down()
    assert len(giver.told) == 500


def test_outcome_after_the_taker_s_restart_is_told() -> None:
    net, giver, taker = given_to_a_broker(1)
    net.kill(taker)
    net.restart(taker)
    net.notice(net.connections[G, T], 0, "gone")
    net.connect(G, T)
    net.pass_time(10_000)
    net.settle_down(work=True)
    assert giver.told == [ONE]


def test_outcome_at_the_second_taker_is_told() -> None:
    net, giver, taker = given_to_a_broker(1)
    other = net.nodes[U] = Node(U, "broker")
    other.start(0)
    net.connect(G, U)
    net.connect(T, U)
    taker.dispatcher.link_down(taker.worker, "left")
    taker.running.clear()
    taker.turn()
    net.settle_down()
    taker.handoff.leave(0)
    taker.turn()
    net.settle_down()
    assert other.owns(ONE)
    net.settle_down(work=True)
    assert other.settled == [ONE]
    assert giver.told == [ONE]


def _done(task: bytes) -> Done:
    return Done(1_000_000, [Outcome(task, 1, 0, 1, -1, 0, 1, 5, b"value")])


def test_a_caller_hears_of_a_task_whose_taker_had_an_heir_while_the_giving_was_written() -> None:
    giver, taker, heir = (
        Node(G, "producer", route="broker"), Node(T, "broker"), Node(U, "broker"),
    )  # fmt: skip
    net = Network([giver, taker, heir])

    def write(node: Node) -> None:
        while node.writes:
            node.write()
            net.carry(node)

    def hear(node: Node) -> None:
        for end in [end for end in net.open_ends() if end.node is node][:1]:
            net.deliver(end)

    net.connect(G, T)
    giver.submit([1])
    while not giver.handoff.deciding:
        write(giver)
        hear(taker)
        write(taker)
        hear(giver)
    net.kill(taker)
    net.notice(net.connections[G, T], 0, "gone")
    heir.adopt(taker)
    write(heir)
    net.connect(G, U)
    for _ in range(10):
        hear(giver)
    write(giver)
    net.settle_down(work=True)
    net.pass_time(2_000)  # the heir waits a moment for a worker that has it already
    net.settle_down(work=True)
    assert heir.settled == [ONE]
    assert giver.told == [ONE]


def test_a_caller_hears_of_a_task_that_its_taker_had_settled_and_not_told_when_it_has_an_heir() -> (
    None
):
    """The journal that is left is empty, so nobody would take it over for its tasks."""
    giver, taker, heir = (
        Node(G, "producer", route="broker"), Node(T, "broker"), Node(U, "broker"),
    )  # fmt: skip
    net = Network([giver, taker, heir])
    net.connect(G, T)
    giver.submit([1])
    net.settle_down(work=False)
    assert taker.owns(ONE)
    taker.finish(ONE)
    while taker.writes:
        taker.write()
    assert taker.settled == [ONE]
    assert not taker.records()
    net.kill(taker)  # with all that it was going to say
    net.notice(net.connections[G, T], 0, "gone")
    net.settle_down(work=True)
    assert giver.told == []
    heir.adopt(taker)
    net.connect(G, U)
    net.settle_down(work=True)
    net.pass_time(2_000)
    net.settle_down(work=True)
    assert giver.told == [ONE]
