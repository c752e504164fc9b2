"""Answers are sent when all requests of a turn have been read, and each arrives in spite of events in between."""

from typing_extensions import override

from _native.lane import Limits
from tests.native.serving import REQUEST, Finishing, reset, serving

CLOSE_THE_OTHERS = b"close the others\r\n\r\n"


async def test_a_pending_answer_is_sent_before_its_connection_is_closed_as_idle() -> None:
    class ClosingOthers(Finishing):
        @override
        def go_on(self) -> None:
            if self.received == CLOSE_THE_OTHERS:
                lane.lane.close_idle()
            super().go_on()

    async with serving(ClosingOthers) as lane:
        with lane.connected() as asking, lane.connected() as closing:
            lane.iterate()
            asking.send(REQUEST)
            closing.send(CLOSE_THE_OTHERS)
            lane.iterate()
            assert asking.recv(65536).endswith(b'"token_type":"Bearer"}')
            assert asking.recv(1) == b""


async def test_a_pending_answer_is_sent_before_its_slot_is_given_to_a_new_connection() -> None:
    async with serving(limits=Limits(connections=1)) as lane:
        with lane.connected() as asking:
            for _ in range(2):  # epoll forgets that the listener was ready, and reports the request first
                lane.iterate()
            asking.send(REQUEST)
            with lane.connected() as newcomer:
                newcomer.send(REQUEST)
                lane.iterate()
                assert asking.recv(65536).endswith(b'"token_type":"Bearer"}')
                assert asking.recv(1) == b""
                assert newcomer.recv(65536).endswith(b'"token_type":"Bearer"}')
                assert (lane.count("evicted_idle"), lane.count("refused_total")) == (1, 0)


async def test_a_disconnected_peer_does_not_affect_the_answers_of_others() -> None:
    async with serving() as lane:
        leaving, staying = [lane.connected() for _ in range(3)], [lane.connected() for _ in range(3)]
        lane.iterate()
        for left, stays in zip(leaving, staying, strict=True):
            left.send(REQUEST)
            stays.send(REQUEST)
        for left in leaving:
            reset(left)
        for _ in range(3):
            lane.iterate()
        for stays in staying:
            assert stays.recv(65536).endswith(b'"token_type":"Bearer"}')
            stays.close()


async def test_an_answer_belongs_to_the_record_that_the_request_found() -> None:
    async with serving() as lane:
        with lane.connected() as first, lane.connected() as second:
            lane.iterate()
            first.send(REQUEST)
            second.send(REQUEST)
            lane.iterate()
            lane.record.invalidate()
            assert b'"secret"' in first.recv(65536)
            assert b'"secret"' in second.recv(65536)
            first.send(REQUEST)
            lane.iterate()
            assert b" 404 " in first.recv(65536)
