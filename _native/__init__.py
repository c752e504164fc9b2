"""The compiled data plane: it turns the bytes of requests into the bytes of responses.

The package contains the listener, the scanner of request heads, the index from address to pod record, and the ready
responses. All of it runs on input of untrusted pods. It knows neither Kubernetes, Azure nor policies, and imports no
other package of this project. `nmi` is the only caller.

The untrusted input, the guarantees, and the tests (in tests/contract/native) that show them:

The bytes of a request
  A request that the fast lane accepts has the meaning that the standard defines; doubts go to the general lane.
    test_scan_against_oracle.py::test_the_oracle_reads_a_mutated_request_that_the_fast_lane_accepts_equally
  Both lanes give the same response.
    test_lanes_agree.py::test_mutated_requests_are_answered_equally_by_both_lanes_and_the_oracle
  The way in which a peer splits its bytes makes no difference.
    test_lanes_agree.py::test_answers_do_not_depend_on_how_the_bytes_are_split
  Pipelined requests are answered in order, and none after a last one.
    test_lane_answers_fast.py::test_pipelined_fast_and_slow_requests_are_answered_in_order
    test_lane_answers_fast.py::test_nothing_is_answered_after_a_request_with_connection_close
  A request that a pod's server was tricked into sending lacks `Metadata: true`, and gets no token here.
    test_lane_answers_fast.py::test_without_the_metadata_header_a_request_is_fast_only_if_the_header_is_optional

The caller and the requested token
  A token goes to the address that it was granted to, looked up for each request and not for each connection.
    test_lane_answers_fast.py::test_an_unknown_address_gets_no_answer_of_another_pod
    test_lane_answers_fast.py::test_the_address_is_looked_up_for_every_request
  The token is the one for this resource and identity: no two requests share a key.
    test_index.py::test_parts_of_the_key_do_not_run_into_each_other
  The response is based on the present decision: one that was fetched under an older decision is not admitted.
    test_index.py::test_an_answer_of_an_older_decision_is_not_stored
    test_lane_answers_fast.py::test_an_invalidated_record_answers_nothing
  If only redirected connections may be served, any other connection never gets a fast response.
    test_redirected_connections.py::test_a_redirected_connection_reports_its_original_destination_and_gets_fast_answers_a_direct_one_does_not
    test_redirected_connections.py::test_without_a_redirect_rule_no_connection_gets_answers_for_redirected_connections
  On the node's own address, a connection that no rule redirected from the metadata address is closed unread.
    test_node_listener_behind_nat.py::test_only_redirected_connections_to_the_nodes_address_are_served
    test_node_listener.py::test_a_direct_connection_is_reset_before_a_byte_is_read_and_another_is_served
  A flood of such connections takes a bounded part of the CPU, and no slot of a peer.
    test_node_listener.py::test_a_flood_of_direct_connections_is_closed_at_a_bounded_rate_and_others_are_accepted
    test_node_listener.py::test_direct_connections_use_no_slot_of_their_peer

A refusal that is ready
  It has the status and text of the general lane's refusal: fast lane, general lane and oracle agree on every request.
    test_scan_against_oracle.py::test_the_oracle_refuses_a_random_request_that_the_fast_lane_refuses_equally
    test_lanes_agree.py::test_mutated_requests_are_answered_equally_by_both_lanes_and_the_oracle
  It is counted like one of the general lane, and ends with the pod record's generation, at the latest after a minute.
    ../nmi/server/test_ready_refusals.py::test_both_lanes_count_a_refusal_in_the_same_metrics
    ../nmi/server/test_ready_refusals.py::test_a_new_generation_of_the_pod_record_ends_ready_refusals
    ../nmi/server/test_ready_refusals.py::test_the_general_lane_refuses_again_after_a_minute

The speed of a peer and its number of connections
  Silence, a head in drops and unread responses end at a deadline that no single byte moves.
    test_lane_deadlines.py::test_a_connection_that_sends_nothing_is_closed
    test_lane_deadlines.py::test_an_incomplete_head_is_cut_off_at_the_deadline_even_if_bytes_keep_arriving
    test_lane_deadlines.py::test_reading_a_little_does_not_extend_the_write_deadline
  The lane does not read from a peer that does not read, so that the memory of one connection is bounded.
    test_lane_back_pressure.py::test_requests_wait_while_answers_cannot_be_written
    test_lane_handover.py::test_a_paused_connection_is_not_read_until_it_is_resumed
  One pod uses neither all slots nor a whole turn, with any number of connections.
    test_lane_limits.py::test_one_peer_gets_at_most_its_slots
    test_lane_limits.py::test_one_loop_iteration_serves_a_limited_number_of_requests_of_a_connection
    test_lane_limits.py::test_continuous_requests_of_one_peer_delay_another_peers_request_by_one_request_only
    test_lane_limits.py::test_frequent_connects_delay_the_first_request_of_others_by_few_requests
  Pods that hold all slots together, idle or slow, cannot exclude a pod that has fewer; it loses none to them.
    test_lane_eviction.py::test_peers_that_hold_all_slots_cannot_exclude_another_and_lose_equally
    test_lane_eviction.py::test_without_idle_connections_a_slow_peer_loses_a_slot_to_a_peer_with_fewer
    test_lane_eviction.py::test_a_new_connection_replaces_the_least_recently_used_one_of_the_largest_peer
  A request that is being answered is never evicted.
    test_lane_eviction.py::test_a_request_in_progress_is_never_cut_off
  Thousands of connections that reach their deadline at the same time do not block the loop.
    test_lane_deadlines.py::test_many_overdue_connections_are_closed_in_parts
  All of these concurrently, against the real program (in tests/system/local): another pod's p99 stays under 50 ms.
    ../../system/local/integration/test_greedy_pods.py::test_a_flood_from_one_pod_does_not_change_another_pods_p99
    ../../system/local/integration/test_greedy_pods.py::test_sixteen_pods_that_hold_every_slot_do_not_exclude_a_seventeenth
  Without free descriptors, connected peers are served, and the loop does not spin.
    test_lane_limits.py::test_without_free_descriptors_existing_connections_are_served
    test_lane_limits.py::test_without_free_descriptors_the_listener_pauses_and_resumes

The end of a connection
  Its slot is released, even if memory ran out when it was taken, and no memory is left behind.
    test_lane_listener.py::test_a_connection_without_memory_is_closed_and_not_counted
    test_lane_limits.py::test_slots_are_released_however_a_connection_ends
    test_leaks.py::test_thousands_of_connections_leave_no_objects_behind
  A connection that reuses its descriptor or number receives no event of it.
    test_lane_ends.py::test_an_event_of_a_connection_closed_in_the_same_iteration_is_ignored
  A failure that it causes in the general lane ends this connection only, and cannot flood the log.
    test_lane_survives_handlers.py::test_a_failing_handler_ends_its_connection_only
    test_lane_survives_handlers.py::test_repeated_failures_are_logged_once
"""
