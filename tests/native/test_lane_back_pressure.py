"""The lane does not read from a peer that does not read its answers, and sends it all answers later."""

import re

from typing_extensions import override

from tests.native.serving import LAST_REQUEST, OTHER_REQUEST, REQUEST, Recorder, serving


async def test_requests_wait_while_answers_cannot_be_written() -> None:
    async with serving(token=b"t" * 60_000) as lane:
        peer = await lane.connect(receive_buffer=4096)
        peer.stop_reading()
        count = 1000  # their answers exceed any socket buffer
        peer.send(REQUEST * count + LAST_REQUEST)
        other = await lane.connect()
        for _ in range(100):  # enough iterations to serve all of it
            await other.ask(OTHER_REQUEST)
        answered = lane.count("fast_answers")
        assert 0 < answered < count / 2
        await other.ask(OTHER_REQUEST)
        assert lane.count("fast_answers") == answered
        peer.read_again()
        assert len(re.findall(rb"HTTP/1.1 \d+", await peer.ending())) == count + 1


class Generous(Recorder):
    """A general lane that answers with more bytes than a socket accepts, in several pieces, and resumes immediately."""

    @override
    def data_received(self, data: bytes) -> None:
        self.note("data")
        for piece in range(20):
            self.connection.write(bytes([65 + piece]) * 300_000)
        self.connection.resume()


async def test_a_large_answer_arrives_whole_in_order_and_before_the_next() -> None:
    async with serving(Generous) as lane:
        peer = await lane.connect()
        peer.send(OTHER_REQUEST)
        await lane.until(lambda: len(lane.generals) == 1)
        peer.send(LAST_REQUEST)
        received = await peer.ending()
        large = b"".join(bytes([65 + piece]) * 300_000 for piece in range(20))
        assert received[: len(large)] == large
        assert received[len(large) :].startswith(b"HTTP/1.1 200 OK")
