"""The compiled data plane: it turns the bytes of requests into the bytes of answers.

The package contains the listener, the scanner of request heads, the index from address to pod record, and the ready
answers. All of it runs on input of untrusted pods. It knows neither Kubernetes, Azure nor policies, and imports no
other package of this project. `nmi` is the only caller.

The untrusted input, the guarantees, and the tests (in tests/native) that show them:

The bytes of a request
  A request that the fast lane accepts has the meaning that the standard defines; doubts go to the general lane.
    test_scan_against_oracle.py::test_a_mutated_request_that_the_fast_lane_takes_means_the_same_to_the_oracle
  Both lanes give the same answer.
    test_lanes_agree.py::test_mutated_requests_are_answered_alike_by_both_lanes_and_the_oracle
  The way in which a peer splits its bytes makes no difference.
    test_lanes_agree.py::test_nothing_changes_however_the_bytes_arrive
  Pipelined requests are answered in order, and none after a last one.
    test_lane_answers_fast.py::test_pipelined_requests_are_answered_in_order_among_slow_ones
    test_lane_answers_fast.py::test_nothing_is_answered_after_a_last_request
  A request that a pod's server was tricked into sending lacks `Metadata: true`, and gets no token here.
    test_lane_answers_fast.py::test_without_the_header_a_request_is_fast_only_where_it_is_not_required

The caller and the requested token
  A token goes to the address that it was granted to, looked up for each request and not for each connection.
    test_lane_answers_fast.py::test_an_unknown_address_gets_nobodys_answer
    test_lane_answers_fast.py::test_the_address_is_looked_up_for_every_request
  The token is the one for this resource and identity: no two requests share a key.
    test_index.py::test_parts_of_the_key_do_not_run_into_each_other
  The answer is based on the present decision: one that was fetched under an older decision is not admitted.
    test_index.py::test_an_answer_of_an_older_decision_is_not_let_in
    test_lane_answers_fast.py::test_a_record_that_was_invalidated_answers_nothing
  If only redirected connections may be served, any other connection never gets a fast answer.
    test_redirected_connections.py::test_a_redirected_connection_tells_where_it_was_meant_to_go_and_gets_fast_answers_where_a_direct_one_does_not
    test_redirected_connections.py::test_on_loopback_without_any_rule_nobody_gets_a_fast_answer_that_only_the_redirected_get

The speed of a peer and its number of connections
  Silence, a head in drops and unread answers end at a deadline that no single byte moves.
    test_lane_deadlines.py::test_a_connection_that_says_nothing_is_closed
    test_lane_deadlines.py::test_a_head_that_does_not_end_is_cut_off_however_often_a_byte_comes
    test_lane_deadlines.py::test_the_deadline_for_writing_is_not_moved_by_reading_a_little
  The lane does not read from a peer that does not read, so that the memory of one connection is bounded.
    test_lane_back_pressure.py::test_requests_wait_while_answers_do
    test_lane_hands_over.py::test_a_held_connection_is_not_read_until_it_is_resumed
  One pod uses neither all slots nor a whole turn, with any number of connections.
    test_lane_limits.py::test_one_peer_gets_its_places_and_no_more
    test_lane_limits.py::test_one_turn_serves_one_connection_a_few_requests_only
    test_lane_limits.py::test_what_one_peer_sends_without_pause_delays_the_next_peers_request_by_one_of_its_own_only
    test_lane_limits.py::test_who_connects_very_often_delays_the_first_request_of_others_by_few_of_its_own
  Pods that hold all slots together, idle or slow, cannot exclude a pod that has fewer; it loses none to them.
    test_lane_makes_room.py::test_those_who_hoard_all_places_cannot_keep_another_out_and_lose_alike
    test_lane_makes_room.py::test_with_nothing_idle_a_slow_peers_place_goes_to_one_that_has_fewer
    test_lane_makes_room.py::test_a_newcomer_takes_the_place_that_the_greediest_peer_has_used_least_lately
  A request that is being answered is never evicted.
    test_lane_makes_room.py::test_a_request_that_is_being_answered_is_never_cut
  Thousands of connections that reach their deadline at the same time do not block the loop.
    test_lane_deadlines.py::test_many_that_are_late_together_are_closed_a_part_at_a_time
  All of these concurrently, against the real program (in tests/integration): another pod's p99 stays under 50 ms.
    ../integration/test_greedy_pods.py::test_a_flood_from_one_pod_does_not_show_in_anothers_p99
    ../integration/test_greedy_pods.py::test_5000_idle_connections_from_one_pod_that_may_have_them_do_not_show
    ../integration/test_greedy_pods.py::test_sixteen_pods_that_hold_every_place_cannot_keep_a_seventeenth_from_being_served
  Without free descriptors, connected peers are served, and the loop does not spin.
    test_lane_limits.py::test_out_of_descriptors_those_who_are_connected_are_served
    test_lane_limits.py::test_out_of_descriptors_the_listener_rests_and_then_goes_on

The end of a connection
  Its slot is released, even if memory ran out when it was taken, and no memory is left behind.
    test_lane_listener.py::test_out_of_memory_a_connection_is_closed_and_not_counted
    test_lane_limits.py::test_places_are_given_back_however_a_connection_ends
    test_leaks.py::test_nothing_is_left_of_thousands_of_connections
  A connection that reuses its descriptor or number receives no event of it.
    test_lane_ends.py::test_an_event_of_a_connection_that_was_closed_in_the_same_turn_is_nobodys
  A failure that it causes in the general lane ends this connection only, and cannot flood the log.
    test_lane_survives_handlers.py::test_a_failing_handler_ends_its_connection_only
    test_lane_survives_handlers.py::test_failures_are_logged_once_however_many_there_are
"""
