"""The compiled data plane: bytes in, bytes out.

Here live the listener, the scan of a request's head, the index from address to pod, and the answers that stand ready.
Everything here runs on what an untrusted pod sends, or beside it; nothing here knows Kubernetes, Azure or a policy,
and nothing here imports a package of ours. `nmi` is the only caller.

What is untrusted, what is promised all the same, and the test (in tests/native) that shows it:

The bytes of a request
  What the fast lane takes means what the standard says; it leaves every doubt to the general lane.
    test_scan_against_oracle.py::test_a_mutated_request_that_the_fast_lane_takes_means_the_same_to_the_oracle
  It answers nothing otherwise than the general lane would.
    test_lanes_agree.py::test_mutated_requests_are_answered_alike_by_both_lanes_and_the_oracle
  Where a peer cuts its bytes makes no difference.
    test_lanes_agree.py::test_nothing_changes_however_the_bytes_arrive
  Pipelined requests are answered in order, and none that stands behind a last one.
    test_lane_answers_fast.py::test_pipelined_requests_are_answered_in_order_among_slow_ones
    test_lane_answers_fast.py::test_nothing_is_answered_after_a_last_request
  A request that somebody else's server was made to send lacks `Metadata: true`, and gets no token here.
    test_lane_answers_fast.py::test_without_the_header_a_request_is_fast_only_where_it_is_not_required

Who asks, and for what
  A token goes to the address that it was granted to, looked up for each request and not for each connection.
    test_lane_answers_fast.py::test_an_unknown_address_gets_nobodys_answer
    test_lane_answers_fast.py::test_the_address_is_looked_up_for_every_request
  It is the one for this resource and identity: no two questions share a key.
    test_index.py::test_parts_of_the_key_do_not_run_into_each_other
  It rests on what is decided now: an answer that was fetched under an older decision is not let in.
    test_index.py::test_an_answer_of_an_older_decision_is_not_let_in
    test_lane_answers_fast.py::test_a_record_that_was_invalidated_answers_nothing

How fast a peer sends and reads, and how often it connects
  Silence, a head in drops and unread answers end at a deadline that no single byte moves.
    test_lane_deadlines.py::test_a_connection_that_says_nothing_is_closed
    test_lane_deadlines.py::test_a_head_that_does_not_end_is_cut_off_however_often_a_byte_comes
    test_lane_deadlines.py::test_the_deadline_for_writing_is_not_moved_by_reading_a_little
  Who does not read is not read from, so what is kept for one connection is bounded.
    test_lane_back_pressure.py::test_requests_wait_while_answers_do
    test_lane_hands_over.py::test_a_held_connection_is_not_read_until_it_is_resumed
  One pod takes neither all places nor a whole turn.
    test_lane_limits.py::test_one_peer_gets_its_places_and_no_more
    test_lane_limits.py::test_one_turn_serves_one_connection_a_few_requests_only
  When descriptors run out, those who are connected are served, and nothing spins.
    test_lane_limits.py::test_out_of_descriptors_those_who_are_connected_are_served
    test_lane_limits.py::test_out_of_descriptors_the_listener_rests_and_then_goes_on

How a connection ends
  Its place is given back, and nothing is left of it.
    test_lane_limits.py::test_places_are_given_back_however_a_connection_ends
    test_leaks.py::test_nothing_is_left_of_thousands_of_connections
  Whoever gets its descriptor or slot next hears nothing that was meant for it.
    test_lane_ends.py::test_an_event_of_a_connection_that_was_closed_in_the_same_turn_is_nobodys
  A fault that it provokes in the general lane ends it alone, and cannot flood the log.
    test_lane_survives_handlers.py::test_a_failing_handler_ends_its_connection_only
    test_lane_survives_handlers.py::test_failures_are_logged_once_however_many_there_are
"""
